"""A run is refused for what its config and files say before anything takes long."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from prorank_jax.config import (
    DataOptions,
    GrpoOptions,
    ModelOptions,
    OptimizerOptions,
    RankingOptions,
    RunConfig,
    TrainOptions,
)
from prorank_jax.setup import prepare_run


def test_scores_that_cannot_be_labels_are_refused_before_the_model_is_opened(tmp_path: Path) -> None:
    (tmp_path / "scores.tsv").write_text("q0\td0-0\t2.5\n")
    config = RunConfig(
        stage=2,
        model=ModelOptions(source=str(tmp_path / "no model")),
        data=DataOptions(teacher_scores=str(tmp_path / "scores.tsv")),
        ranking=RankingOptions(losses="pointwise=1", soft_labels="teacher"),
    )
    with pytest.raises(
        ValueError, match=r"^ranking\.soft_labels='teacher': the teacher's scores go from 2\.5"
    ):
        prepare_run(config, Console(quiet=True))


def test_a_warmup_that_is_too_long_is_refused_before_the_model_is_opened(tmp_path: Path) -> None:
    config = RunConfig(
        model=ModelOptions(source=str(tmp_path / "no model")),
        train=TrainOptions(steps=5),
        optimizer=OptimizerOptions(warmup_steps=10),
        grpo=GrpoOptions(updates_per_rollout=2),
    )
    with pytest.raises(ValueError, match=r"^optimizer\.warmup_steps=10: must be below the 10 updates"):
        prepare_run(config, Console(quiet=True))


def test_a_file_with_a_teachers_scores_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    data = DataOptions(source=str(tmp_path / "absent.jsonl"))
    config = RunConfig(stage=2, data=data, ranking=RankingOptions(losses="margin_mse=1"))
    with pytest.raises(ValueError, match=r"absent\.jsonl': no such file or folder"):
        prepare_run(config, Console(quiet=True))
