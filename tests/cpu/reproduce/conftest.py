"""What tests of an ablation's order of work leave out."""

from __future__ import annotations

import pytest

from prorank_jax.reproduce import command
from tests.cpu.reproduce.stand_in_launchers import PICTURE


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch) -> None:
    """Drawing takes seconds; `test_results` and `test_end_to_end` do it."""
    monkeypatch.setattr(command, "draw_ablation", lambda content: PICTURE * bool(content["rows"]))
    monkeypatch.setattr(command, "draw_learning", lambda runs: PICTURE * len(runs))


@pytest.fixture(autouse=True)
def _no_model(monkeypatch) -> None:
    """Most tests name a base model that nothing is read of."""
    monkeypatch.setattr(command, "check_recipes", lambda _: None)
