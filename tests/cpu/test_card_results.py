"""Tables of a model card hold whatever stands in their cells, and say where there is nothing to tell."""

from __future__ import annotations

from prorank_jax.card_results import evaluation_section, table, training_section
from prorank_jax.model_history import RunHistory


def test_texts_cannot_break_out_of_a_table() -> None:
    assert table(("a", "b"), [("x | y", "two\nlines")]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| x \\| y | two lines |",
    ]


def test_nothing_known_is_said_to_be_nothing() -> None:
    assert training_section(RunHistory((), "")).startswith("No run of prorank-jax is known")
    assert evaluation_section(()).startswith("No evaluation was given")
