"""A bar comes where somebody can see it, for lists that take a while, or where it is asked for."""

from __future__ import annotations

import pytest
from rich.console import Console

from prorank_jax import pair_progress as module
from prorank_jax.pair_progress import LONG_LIST, pair_progress


@pytest.mark.parametrize(
    ("pairs", "wanted", "is_terminal", "shown"),
    [
        (LONG_LIST, None, True, True),
        (LONG_LIST - 1, None, True, False),
        (LONG_LIST, None, False, False),
        (1, True, False, True),
        (LONG_LIST, False, True, False),
    ],
)
def test_where_there_is_a_bar(
    pairs: int, wanted: bool | None, is_terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def console(stderr: bool) -> Console:
        return Console(stderr=stderr, force_terminal=is_terminal)

    monkeypatch.setattr(module, "Console", console)
    with pair_progress(pairs, wanted) as on_scored:
        assert (on_scored is not None) == shown
        if on_scored is not None:
            on_scored(pairs)
