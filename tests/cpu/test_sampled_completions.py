"""The table of a step's completions shows both labels, each prompt with its own completions."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from prorank_jax.config import MeshOptions
from prorank_jax.sampled_completions import sampled_table, shown_rows
from prorank_jax.setup import Run
from prorank_jax.sharding import make_mesh
from prorank_jax.types import Batch


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 1, 0, 1, 1, 0], [1, 3, 0, 2]), ([0, 0, 0, 1], [3, 0, 1]), ([1, 1, 1], [0, 1]), ([], [])],
)
def test_the_first_rows_of_each_label_are_shown(labels: list[int], expected: list[int]) -> None:
    assert shown_rows(np.array(labels, np.int32)).tolist() == expected


def test_each_prompt_stands_beside_its_own_completions() -> None:
    run = SimpleNamespace(
        mesh=make_mesh(MeshOptions(), jax.devices()[:1]),
        examples=[SimpleNamespace(query_id=f"query-{place}") for place in range(10)],
        tokenizer=SimpleNamespace(decode=lambda ids: f"<{ids[0]}>"),
    )
    labels = np.array([0, 1, 1, 0, 0], np.int32)
    batch = Batch(
        tokens=np.zeros((5, 8), np.int32),
        lengths=np.full(5, 8, np.int32),
        labels=labels,
        examples=np.array([9, 8, 7, 6, 5], np.int32),
    )
    completions = jnp.arange(5)[:, None, None] * jnp.ones((1, 2, 3), jnp.int32)
    console = Console(file=io.StringIO(), width=120)
    console.print(sampled_table(cast(Run, run), 4, batch, completions))
    shown = cast(Any, console.file).getvalue()
    for row in (0, 1, 2, 3):
        (line,) = (line for line in shown.splitlines() if f"query-{9 - row}" in line)
        assert f"<{row}>" in line
        assert all(f"<{other}>" not in line for other in range(5) if other != row)
    assert "query-5" not in shown
