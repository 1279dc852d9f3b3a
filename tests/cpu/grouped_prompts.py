"""Random prompts of several queries, those of a query with one start."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.cpu.tiny import VOCABULARY

groups = st.lists(st.tuples(st.integers(0, 300), st.lists(st.integers(1, 300), min_size=1, max_size=9)))


def make_prompts(groups: list[tuple[int, list[int]]]) -> tuple[list[np.ndarray], list[str]]:
    """Prompts and queries: of each group so many shared tokens, and so many others of each prompt."""
    prompts, queries = [], []
    for number, (shared, rests) in enumerate(groups):
        rng = np.random.default_rng(number)
        head = rng.integers(0, VOCABULARY, shared)
        for rest in rests:
            prompts.append(np.concatenate([head, rng.integers(0, VOCABULARY, rest)]).astype(np.int32))
            queries.append(f"query {number}")
    return prompts, queries
