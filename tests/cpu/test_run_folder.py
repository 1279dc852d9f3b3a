"""Whose an output directory is, and who may write to it."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest

from prorank_jax.config import (
    CheckpointOptions,
    DataOptions,
    GrpoOptions,
    MeshOptions,
    ModelOptions,
    ProbeOptions,
    RankingOptions,
    RunConfig,
    TrainOptions,
)
from prorank_jax.run_folder import (
    CONFIG_FILE,
    LEASE_FILE,
    LOCK_FILE,
    MARKER,
    check_same_run,
    only_run_in,
    write_config,
    write_json,
)

CONFIG = RunConfig()


def test_a_run_goes_on_in_its_own_folder_and_starts_in_a_new_one(tmp_path):
    check_same_run(tmp_path / "new", CONFIG)
    check_same_run(tmp_path, CONFIG)
    write_config(tmp_path, CONFIG)
    check_same_run(tmp_path, CONFIG)


def test_another_config_is_refused_by_the_names_of_its_fields(tmp_path):
    write_config(tmp_path, CONFIG)
    before = (tmp_path / CONFIG_FILE).read_bytes()
    other = dataclasses.replace(CONFIG, train=TrainOptions(steps=7, seed=3))
    with pytest.raises(
        ValueError, match=r"train\.seed is 0 there, 3 here, train\.steps is 200 there, 7 here"
    ):
        check_same_run(tmp_path, other)
    assert (tmp_path / CONFIG_FILE).read_bytes() == before


def test_what_decides_nothing_may_change(tmp_path):
    write_config(tmp_path, CONFIG)
    other = dataclasses.replace(
        CONFIG,
        output_dir="elsewhere",
        train=TrainOptions(sample_every=3, max_skipped=9, profile_steps=2, accumulation=4),
        model=ModelOptions(remat="full", attention="splash"),
        probe=ProbeOptions(batch_size=256),
        checkpoint=CheckpointOptions(every=7, keep=9),
        mesh=MeshOptions(data=2, fsdp=2),
    )
    check_same_run(tmp_path, other)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"model": ModelOptions(compute_dtype="bfloat16")}, r"model\.compute_dtype is 'float32' there"),
        ({"train": TrainOptions(batch_size=64)}, r"train\.batch_size is 16 there, 64 here"),
        ({"probe": ProbeOptions(examples=64)}, r"probe\.examples is 128 there, 64 here"),
        ({"probe": ProbeOptions(every=5)}, r"probe\.every is 50 there, 5 here"),
    ],
    ids=str,
)
def test_what_stands_beside_a_free_field_may_not_change(other, named, tmp_path):
    write_config(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=named):
        check_same_run(tmp_path, dataclasses.replace(CONFIG, **other))


@pytest.mark.parametrize("stage", [1, 2])
def test_the_options_of_the_other_stage_may_change(stage, tmp_path):
    config = dataclasses.replace(CONFIG, stage=stage)
    write_config(tmp_path, config)
    ranking, grpo = RankingOptions(losses="pairwise=1"), GrpoOptions(group_size=8)
    check_same_run(
        tmp_path, dataclasses.replace(config, **({"ranking": ranking} if stage == 1 else {"grpo": grpo}))
    )
    own = {"grpo": grpo} if stage == 1 else {"ranking": ranking}
    with pytest.raises(ValueError, match=r"grpo\.group_size is" if stage == 1 else r"ranking\.losses is"):
        check_same_run(tmp_path, dataclasses.replace(config, **own))
    longer = dataclasses.replace(config, grpo=GrpoOptions(max_new_tokens=3))  # which probes read
    with pytest.raises(ValueError, match=r"grpo\.max_new_tokens is 2 there, 3 here"):
        check_same_run(tmp_path, longer)


def test_a_run_of_before_a_field_was_there_has_its_default(tmp_path):
    write_config(tmp_path, CONFIG)
    lines = (tmp_path / CONFIG_FILE).read_text().splitlines(keepends=True)
    (tmp_path / CONFIG_FILE).write_text("".join(line for line in lines if "excerpts:" not in line))
    check_same_run(tmp_path, CONFIG)
    other = dataclasses.replace(CONFIG, data=DataOptions(excerpts="key_sentences"))
    with pytest.raises(ValueError, match=r"data\.excerpts is 'head' there, 'key_sentences' here"):
        check_same_run(tmp_path, other)


@pytest.mark.parametrize(
    "content", ["{", "{}", "- 1\n", "null", "a: [", "\0", "text", "a: &a {b: *a}", "[" * 9999]
)
def test_a_config_that_is_none_is_refused(tmp_path, content):
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml|output_dir"):
        check_same_run(tmp_path, CONFIG)
    assert (tmp_path / CONFIG_FILE).read_text() == content


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"'thesis\.txt' but no config\.yaml"):
        check_same_run(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        check_same_run(tmp_path / "thesis.txt", CONFIG)


@pytest.mark.parametrize(
    "leftover",
    ["data", LOCK_FILE, LEASE_FILE, f"{MARKER}0f3a", f".{CONFIG_FILE}.123.tmp", f".{LEASE_FILE}.123.tmp"],
)
def test_what_a_run_leaves_that_was_stopped_early_is_no_obstacle(tmp_path, leftover):
    (tmp_path / leftover).mkdir()
    check_same_run(tmp_path, CONFIG)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with only_run_in(tmp_path):
        with pytest.raises(ValueError, match="another run is writing there"), only_run_in(tmp_path):
            pass
        program = "import sys; from pathlib import Path; from prorank_jax.run_folder import only_run_in\n"
        program += "with only_run_in(Path(sys.argv[1])): pass"
        other = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "another run is writing there" in other.stderr
    with only_run_in(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_from_a_run_that_holds_one(code, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(ValueError, match=r"run': cannot be locked \(.*\), .* a file system with locks"):
        only_run_in(tmp_path / "run").__enter__()


def test_a_run_that_fails_before_it_wrote_anything_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no such model"), only_run_in(tmp_path / "runs" / "new"):
        raise ValueError("no such model")
    assert not (tmp_path / "runs" / "new").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data").mkdir()
    with pytest.raises(ValueError, match="no such model"), only_run_in(tmp_path / "kept"):
        raise ValueError("no such model")
    assert (tmp_path / "kept" / "data").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"output_dir='.*file/run': cannot be written to"),
        only_run_in(tmp_path / "file" / "run"),
    ):
        pass


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "report.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": math.nan})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
