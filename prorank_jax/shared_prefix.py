"""Prompts that start alike: all prompts of a query do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """The prompts of one query.

    Attributes:
        places: of the prompts among all, the longest first.
        shared: tokens that they all start with, at least one fewer than the shortest has; of one prompt 0.
        rests: tokens that each has beyond those.
    """

    places: list[int]
    shared: int
    rests: list[int]


def shared_length(prompts: Sequence[np.ndarray]) -> int:
    """How many tokens all prompts start with, so that at least one is left of each."""
    width = min(map(len, prompts)) - 1
    heads = np.stack([prompt[:width] for prompt in prompts])
    differing = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differing[0]) if len(differing) else width


def make_groups(prompts: Sequence[np.ndarray], queries: Sequence[str]) -> list[PromptGroup]:
    """The prompts whose queries follow each other and are equal, together."""
    groups = []
    for _, group in itertools.groupby(range(len(prompts)), key=lambda place: queries[place]):
        places = sorted(group, key=lambda place: -len(prompts[place]))
        shared = shared_length([prompts[place] for place in places]) if len(places) > 1 else 0
        groups.append(PromptGroup(places, shared, [len(prompts[place]) - shared for place in places]))
    return groups
