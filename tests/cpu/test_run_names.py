"""How a checkpoint is named: what is a step, and what is part of a folder's own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.models.sources import resolve_source
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from prorank_jax.run_names import RUN_FILES, named_step, saved_steps, split_step


def write_run(folder: Path, *steps: str) -> Path:
    folder.mkdir()
    for name in RUN_FILES:
        (folder / name).write_text("{}")
    for step in steps:
        (folder / CHECKPOINTS_FOLDER / step).mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run", ("run", None)),
        ("run@28", ("run", 28)),
        ("run/@28", ("run/", 28)),
        ("run@28/", ("run", 28)),
        ("run@28//", ("run", 28)),
        ("./run@028", ("./run", 28)),
        ("run@", ("run@", None)),
        ("run@x", ("run@x", None)),
        ("run@-4", ("run@-4", None)),
        ("own@28", ("own@28", None)),  # a run of that name
        ("own@28/", ("own@28/", None)),
        ("own@28@56/", ("own@28", 56)),
        ("own@28@56", ("own@28", 56)),
        ("model@28", ("model@28", None)),  # no run
        ("nowhere@28", ("nowhere@28", None)),
        ("org/name@28", ("org/name@28", None)),
        ("gs://bucket/run@28", ("gs://bucket/run@28", None)),  # whoever fetches it looks there
    ],
)
def test_a_step_is_told_from_a_name(source, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", "28", "56")
    write_run(tmp_path / "own", "28")
    write_run(tmp_path / "own@28", "56")
    (tmp_path / "model").mkdir()
    assert split_step(source) == expected


def test_only_complete_steps_are_there(tmp_path):
    run = write_run(tmp_path / "run", "100", "28", "56.damaged", "99.orbax-checkpoint-tmp")
    assert saved_steps(run) == [28, 100]
    assert named_step(str(run), run) is None
    assert named_step(f"{run}@28", run) == 28
    for step in (56, 99):
        with pytest.raises(ValueError, match=rf"run@{step}': .*no checkpoint of step {step}; .*: 28, 100 "):
            named_step(f"{run}@{step}", run)


def test_what_is_no_run_has_no_steps(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model@28': names a step, and '.*model' is no run"):
        resolve_source(f"{tmp_path}/model@28")


def test_a_step_of_what_holds_runs_is_named_of_one_of_them(tmp_path):
    """`--stage both` writes two runs into its folder."""
    for name in ("stage1", "stage2"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        write_run(tmp_path / "mine" / name, "5")
    with pytest.raises(ValueError, match=r"holds runs and is none itself; name .*/stage1@5 or .*/stage2@5$"):
        resolve_source(f"{tmp_path}/mine@5")
