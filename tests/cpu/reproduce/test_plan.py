"""What of an ablation is done, and what has to be done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prorank_jax.model_identity import model_identity
from prorank_jax.pretrained import read_run_config
from prorank_jax.reproduce.rows import BOTH, STAGE1, STAGE2
from tests.cpu.reproduce.stand_in_launchers import MODEL_STEPS, work
from tests.cpu.run_like_folder import fingerprint_of_before, write_run_folder

pytest.importorskip("ranx")


def checkpoint_of(entry: Path) -> Path:
    (step,) = (entry / "run" / "checkpoints").iterdir()
    return step


def unmeasure(entry: Path) -> None:
    shutil.rmtree(entry / "evaluation")


def test_a_run_without_its_last_checkpoint_is_trained_again_before_it_is_measured(tmp_path):
    """A damaged one was taken away; the report of the first training says nothing of that.

    Nor may what was measured of it stand beside what is measured now.
    """
    entry = tmp_path / "out" / STAGE2 / "seed0"
    work(tmp_path / "out", "--seeds", "0")
    unmeasure(entry)
    checkpoint_of(entry).rmdir()
    assert work(tmp_path / "out", "--seeds", "0")[0].launchers == ["tpu_train.py", *MODEL_STEPS]


def test_a_measured_run_needs_no_last_checkpoint(tmp_path):
    """Its report says that it ended, and the rows were measured of that; nobody reads it any more."""
    entry = tmp_path / "out" / STAGE1 / "seed0"
    work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    step = checkpoint_of(entry)
    step.rename(step.with_name("3"))
    assert work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)[0].ran == []


def test_a_measured_run_that_was_begun_again_and_killed_is_measured_again(tmp_path):
    entry = tmp_path / "out" / STAGE1 / "seed0"
    work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    checkpoint_of(entry).rmdir()
    (entry / "run" / "report.json").unlink()
    run = work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)[0]
    assert run.launchers == ["tpu_train.py", *MODEL_STEPS]


@pytest.mark.parametrize("only", [(BOTH,), (STAGE1, BOTH)])
def test_no_row_keeps_what_was_measured_of_a_stage_1_that_is_trained_again(only, tmp_path):
    work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    entry = tmp_path / "out" / STAGE1 / "seed0"
    checkpoint_of(entry).rmdir()
    measured = [entry / "probe" / "probe.json", entry / "evaluation" / "metrics.json"]
    for file in measured:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_fingerprint": "of the first"}))
    _, content, _ = work(tmp_path / "out", "--seeds", "0", "--only", *only)
    assert not any(file.is_file() and "of the first" in file.read_text() for file in measured)
    assert [row["row"] for row in content["rows"]] == list(only)


def test_checkpoints_of_measured_models_may_be_deleted(tmp_path):
    work(tmp_path / "out", "--seeds", "0")
    for folder in (tmp_path / "out").rglob("checkpoints"):
        shutil.rmtree(folder)
    assert work(tmp_path / "out", "--seeds", "0")[0].ran == []
    unmeasure(tmp_path / "out" / BOTH / "seed0")  # which starts from stage 1
    again = work(tmp_path / "out", "--seeds", "0")[0].launchers
    assert again == ["tpu_train.py", *MODEL_STEPS] * 2  # stage 1's row is of the model that it starts from


@pytest.mark.parametrize(
    ("probed", "measured", "named"),
    [
        ({"model_fingerprint": "a"}, {"model_fingerprint": "b"}, r"model_fingerprint: a, b"),
        ({"model_step": 3}, {"model_step": 3}, r"model_step: 3, 64"),
    ],
    ids=["another model", "an unfinished run"],
)
def test_what_was_measured_of_another_model_is_no_row(probed, measured, named, tmp_path):
    work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    entry = tmp_path / "out" / STAGE1 / "seed0"
    for file, told in (("probe/probe.json", probed), ("evaluation/metrics.json", measured)):
        (entry / file).write_text(json.dumps(json.loads((entry / file).read_text()) | told))
    with pytest.raises(ValueError, match=rf"stage 1 only, seed 0: .*{named}\); delete .*evaluation, and run"):
        work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    for folder in ("probe", "evaluation"):
        shutil.rmtree(entry / folder)
    assert work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)[0].launchers == MODEL_STEPS


def test_a_probe_and_an_evaluation_of_one_model_may_be_of_two_versions(tmp_path):
    work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
    entry = tmp_path / "out" / STAGE1 / "seed0"
    run = write_run_folder(entry / "run", read_run_config(entry / "run"))
    now = model_identity(str(run))["model_fingerprint"]
    told = {"probe/probe.json": fingerprint_of_before(run), "evaluation/metrics.json": now}
    for file, fingerprint in told.items():
        content = json.loads((entry / file).read_text()) | {"model_fingerprint": fingerprint}
        (entry / file).write_text(json.dumps(content))
    assert work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)[0].ran == []
    (run / "tokenizer" / "tokenizer.json").write_text("another")
    with pytest.raises(ValueError, match="are not of one model"):
        work(tmp_path / "out", "--seeds", "0", "--only", STAGE1)
