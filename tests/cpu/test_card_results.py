"""Tables of a model card hold whatever stands in their cells, and say where there is nothing to tell."""

from __future__ import annotations

from collections.abc import Sequence

from prorank_jax import card_results
from prorank_jax.card_results import table, training_section
from prorank_jax.model_history import DatasetResult, Evaluation, RunHistory
from prorank_jax.prompt_settings import PromptSettings

SETTINGS = PromptSettings("", "", 192)


def evaluation_section(evaluations: Sequence[Evaluation], folder: PromptSettings = SETTINGS) -> str:
    return card_results.evaluation_section(evaluations, None, folder)


def test_texts_cannot_break_out_of_a_table() -> None:
    assert table(("a", "b"), [("x | y", "two\nlines")]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| x \\| y | two lines |",
    ]


def test_nothing_known_is_said_to_be_nothing() -> None:
    assert training_section(RunHistory((), ""), SETTINGS, SETTINGS).startswith(
        "No run of prorank-jax is known"
    )
    assert evaluation_section(()).startswith("No evaluation was given")


def test_how_an_evaluation_was_made_is_said_as_far_as_it_is_known() -> None:
    results = (DatasetResult("demo", {"ndcg@10": 0.5}, {"ndcg@10": 0.75}, None, 10, None),)
    known = evaluation_section([Evaluation("runs/mine", 20, results, max_length=192)])
    assert "top 20 of the first stage reranked, prompts of at most 192 tokens. The p-value" in known
    assert "tokens" not in evaluation_section([Evaluation("runs/mine", None, results)])


def test_figures_on_training_queries_are_marked() -> None:
    def said(trained_on: bool) -> str:
        figures = {"ndcg@10": 0.5}
        result = DatasetResult("scifact:train", figures, figures, None, 10, None, trained_on)
        return evaluation_section([Evaluation("runs/mine", 20, (result,))])

    assert "| scifact:train (trained on it) |" in said(True)
    assert "how well it remembers them" in said(True)
    assert "remembers" not in said(False)


def test_what_was_chosen_for_an_evaluation_is_said() -> None:
    figures = {"ndcg@10": 0.5}
    result = DatasetResult("demo", figures, figures, None, 10, None, first_stage_name="/home/me/dense.trec")
    chosen = {"compute_dtype": "bfloat16", "instruction": "find advice"}
    asked = PromptSettings("", "find advice", 192)
    said = evaluation_section([Evaluation("runs/mine", 20, (result,), chosen=chosen)], asked)
    assert "reranked, `compute_dtype` `bfloat16`, `instruction` `find advice`. The p-value" in said
    assert "| demo | 10 | first stage (dense.trec) | 0.5000 |" in said


def test_a_small_p_value_is_not_zero() -> None:
    figures = {"ndcg@10": 0.5}
    said = evaluation_section([Evaluation("m", 20, (DatasetResult("demo", figures, figures, 1e-5),))])
    assert "| <0.0001 |" in said
