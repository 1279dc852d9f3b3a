"""What stage 2 minimises is refused before any compute where no examples could make it work."""

from __future__ import annotations

import re

import pytest

from prorank_jax.config_files import load_config
from prorank_jax.ranking_objective import check_losses

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
