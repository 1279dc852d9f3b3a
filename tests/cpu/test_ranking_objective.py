"""What stage 2 minimises is refused before any compute where no examples could make it work."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config_files import load_config
from prorank_jax.ranking_losses import ListLabels
from prorank_jax.ranking_objective import (
    check_losses,
    check_scores,
    make_objective,
    small_margins,
    unread_scores,
)
from tests.cpu.data_fixtures import write_jsonl

TAUGHT = {"stage": 2, "data.teacher_scores": "scores.tsv"}


@pytest.mark.parametrize(
    ("losses", "more", "remedy"),
    [
        ("listwise=1", {}, "or leave it out"),
        ("listwise=1, pointwise=1", {"ranking.soft_labels": "grade"}, "or leave it out"),
        ("listwise=1", {"ranking.soft_labels": "teacher"}, "or leave it out"),
        ("pairwise", {"data.teacher_depth": 3}, "or leave it and data.teacher_depth out"),
    ],
)
def test_a_teacher_that_no_loss_reads_is_refused(losses: str, more: dict[str, object], remedy: str) -> None:
    config = load_config(None, TAUGHT | {"ranking.losses": losses} | more)
    said = (
        rf"^data\.teacher_scores='scores.tsv': none of ranking\.losses='{re.escape(losses)}' .*add margin_mse"
    )
    with pytest.raises(ValueError, match=rf"{said}.*{remedy}$"):
        check_losses(config)


@pytest.mark.parametrize("soft_labels", ["teacher", "teacher_logit"])
@pytest.mark.parametrize("source", ["demo", "scored.jsonl"])
def test_labels_that_no_loss_reads_are_refused(soft_labels: str, source: str) -> None:
    given = {"stage": 2, "ranking.soft_labels": soft_labels, "data.source": source}
    with pytest.raises(ValueError, match=rf"^ranking\.soft_labels='{soft_labels}': .* add it"):
        check_losses(load_config(None, given))


@pytest.mark.parametrize(
    ("losses", "soft_labels"),
    [
        ("margin_mse=1", "grade"),
        ("listwise=1, listwise_teacher=0", "grade"),
        ("listwise=1, pointwise=0.5", "teacher"),
        ("listwise=1, pointwise=0", "teacher_logit"),
    ],
)
def test_a_loss_that_only_reports_reads_its_teacher_too(losses: str, soft_labels: str) -> None:
    given = {"ranking.losses": losses, "ranking.soft_labels": soft_labels}
    assert check_losses(load_config(None, TAUGHT | given))


@pytest.mark.parametrize(
    ("losses", "soft_labels", "is_told"),
    [
        ("listwise=1", "grade", True),
        ("pairwise=1, pointwise=0.5", "grade", True),
        ("listwise=1, pointwise=0.5", "teacher_logit", False),
        ("listwise=1, margin_mse=0", "grade", False),
    ],
)
def test_scores_of_a_file_that_no_loss_reads_are_told_not_refused(
    losses: str, soft_labels: str, is_told: bool
) -> None:
    given = {"stage": 2, "data.source": "scored.jsonl", "ranking.losses": losses}
    config = load_config(None, given | {"ranking.soft_labels": soft_labels})
    assert check_losses(config)
    said = unread_scores(config, np.array([0.5, np.nan, -2], np.float32))
    if not is_told:
        assert said == ""
        return
    assert said.startswith(
        f"2 of 3 pairs have a teacher's score, which none of ranking.losses={losses!r} reads"
    )
    assert said.endswith(
        "add margin_mse, listwise_teacher, or pointwise with ranking.soft_labels=teacher or teacher_logit"
    )
    assert unread_scores(config, np.full(3, np.nan, np.float32)) == ""


@pytest.mark.parametrize(
    ("soft_labels", "scores", "is_refused"),
    [
        ("teacher_logit", [0.0, 0.5, 1.0], True),
        ("teacher_logit", [0.25, 0.25, 0.25], True),
        ("teacher_logit", [-0.1, 0.5, 1.0], False),
        ("teacher_logit", [0.0, 0.5, 1.1], False),
        ("teacher", [0.0, 0.5, 1.0], False),
        ("teacher", [0.0, 0.5, 1.1], True),
        ("grade", [0.0, 0.5, 1.0], False),
        ("grade", [0.0, 0.5, 1.1], False),
        ("teacher", [0.0, 0.5, 1 + 1e-9], False),  # 1 in float32, in which they are trained on
        ("teacher_logit", [0.0, 0.5, 1 + 1e-9], True),
    ],
)
@pytest.mark.parametrize("form", ["ids", "texts", "own"])
def test_labels_fit_the_range_of_all_scores(
    form: str, soft_labels: str, scores: list[float], is_refused: bool, tmp_path: Path
) -> None:
    """Sigmoids of probabilities would call every document at least half relevant."""
    losses = {"ranking.losses": "pointwise=1, margin_mse=1", "ranking.soft_labels": soft_labels}
    config = load_config(None, {"stage": 2} | losses | _write_scores(tmp_path, form, scores))
    known = np.array([*scores, np.nan], np.float32)
    examples = SimpleNamespace(name="x", scores=known, grades=np.array([1, 1, 0, 0]))
    for check in (lambda: make_objective(config, examples), lambda: check_scores(config)):  # type: ignore[arg-type]
        if is_refused:
            field, span = rf"^ranking\.soft_labels='{soft_labels}'", f"from {scores[0]:g} to {scores[-1]:g}"
            with pytest.raises(ValueError, match=f"{field}: the teacher's scores go {span}"):
                check()
        else:
            check()


def _write_scores(folder: Path, form: str, scores: list[float]) -> dict[str, object]:
    """A teacher's scores by ids, by texts, or in a source of their own: the fields that name them."""
    named = [(f"query {n}", f"passage {n}", score) for n, score in enumerate(scores)]
    file = folder / "scores.jsonl"
    if form == "own":
        lines = [{"query": query, "pos": [text], "pos_scores": [score]} for query, text, score in named]
        return {"data.source": str(write_jsonl(file, lines)), "data.split": "all"}
    if form == "texts":
        write_jsonl(file, [{"query": query, "passage": text, "score": score} for query, text, score in named])
    else:
        file.write_text("".join(f"{query}\t{text}\t{score}\n" for query, text, score in named))
    return {"data.teacher_scores": str(file)}


@pytest.mark.parametrize(
    ("losses", "readers"),
    [
        ("margin_mse=1", "margin_mse"),
        ("listwise_teacher=0.5, listwise=1, margin_mse=1", "listwise_teacher and margin_mse"),
        ("listwise_teacher=0.5, listwise=1, margin_mse=0", "listwise_teacher"),
        ("listwise=1, margin_mse=0", ""),
        ("listwise=1, pointwise=1", ""),
    ],
)
def test_probabilities_that_a_loss_takes_for_logits_are_told(losses: str, readers: str) -> None:
    config = load_config(None, TAUGHT | {"ranking.losses": losses})
    nan = np.nan
    said = small_margins(config, np.array([0.25, nan, 1.0], np.float32))
    if readers:
        start = "the teacher's scores go from 0.25 to 1, as probabilities do, and are read as logits by"
        assert said.startswith(f"{start} {readers}: no document")
    else:
        assert said == ""
    for scores in ([0.25, nan, 1.5], [-0.5, 1.0], [nan, nan]):
        assert small_margins(config, np.array(scores, np.float32)) == ""


@pytest.mark.parametrize(
    ("lists", "size", "borrowed", "most"),
    [(1, 8, 1, 0), (1, 8, 4, 0), (2, 4, 4, 4), (2, 4, 5, 4), (3, 2, 5, 4)],
)
def test_no_more_documents_are_borrowed_than_the_other_lists_have(
    lists: int, size: int, borrowed: int, most: int
) -> None:
    given = {"stage": 2, "ranking.losses": "info_nce=1", "train.batch_size": lists}
    config = load_config(None, given | {"ranking.list_size": size, "ranking.in_batch_negatives": borrowed})
    if borrowed <= most:
        assert check_losses(config)
        return
    told = rf"^ranking\.in_batch_negatives={borrowed}: the other lists of a batch have {most} documents"
    with pytest.raises(ValueError, match=rf"{told}.*train\.batch_size={lists}.*set it to {most}$"):
        check_losses(config)


def test_the_objective_has_the_configs_coefficients_and_labels() -> None:
    given = TAUGHT | {
        "ranking.losses": "pointwise=1, margin_mse=0.5",
        "ranking.soft_labels": "teacher_logit",
        "ranking.kl_coefficient": 0.25,
        "ranking.format_coefficient": 0.125,
    }
    scores = np.array([[-2.0, 0.0, 3.0]], np.float32)
    examples = SimpleNamespace(name="x", scores=scores[0], grades=np.array([1, 1, 0]))
    goal = make_objective(load_config(None, given), examples)  # type: ignore[arg-type]
    assert dict(goal.weights) == {"pointwise": 1.0, "margin_mse": 0.5}
    assert (goal.kl_coefficient, goal.format_coefficient) == (0.25, 0.125)
    mask = np.ones((1, 3), bool)
    labels = ListLabels(np.array([[1, 1, 0]], np.float32), scores, mask, ~mask)
    zero = jnp.zeros((1, 3))
    slope = jax.grad(lambda scores: goal.losses["pointwise"](scores, None, labels)[0].sum() * 3)(zero)
    np.testing.assert_allclose(0.5 - slope, 1 / (1 + np.exp(-scores)), rtol=1e-5)


def test_the_objective_is_what_the_config_says_of_these_examples() -> None:
    config = load_config(
        None,
        {
            "stage": 2,
            "ranking.losses": "pointwise=1, preference=1",
            "ranking.preference_beta": 0.5,
            "data.relevant_grade": 2,
        },
    )
    examples = SimpleNamespace(name="x", scores=np.full(4, np.nan, np.float32), grades=np.array([4, 2, 1, 0]))
    goal = make_objective(config, examples)  # type: ignore[arg-type]
    assert goal.relevant_grade == 2.0
    mask = np.ones((1, 3), bool)
    unscored = np.full((1, 3), np.nan, np.float32)
    labels = ListLabels(np.array([[4, 2, 1]], np.float32), unscored, mask, ~mask)
    zero = jnp.zeros((1, 3))
    slope = jax.grad(lambda scores: goal.losses["pointwise"](scores, None, labels)[0].sum() * 3)(zero)
    np.testing.assert_allclose(0.5 - slope[0], [1.0, 0.5, 0.25], rtol=1e-5)  # shares of the highest grade
    value = goal.losses["preference"](jnp.array([[4.0, 0.0, 0.0]]), zero, labels)[0][0]
    np.testing.assert_allclose(value, (2 * np.log1p(np.exp(-2.0)) + np.log(2)) / 3, rtol=1e-5)
    below = labels.replace(grades=np.array([[1, 0, 0]], np.float32))  # type: ignore[attr-defined]
    assert goal.losses["info_nce"].weights(below) == 0
