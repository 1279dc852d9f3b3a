"""Bad input to the launcher: exit code 2, one line that says what is wrong, and nothing written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import pytest
import yaml

import prorank_jax.setup
from prorank_jax.config_files import config_to_dict, load_config
from prorank_jax.launching import Interrupted
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny_run import (
    LAUNCHER,
    command_line,
    load_launcher,
    tiny_fields,
    write_collection,
    write_model_folder,
)

Fields = dict[str, Any]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_model_folder(folder / "model")
    write_collection(folder / "collection")
    return folder


@pytest.fixture
def workshop(originals, tmp_path, monkeypatch) -> Path:
    """A model and a collection to damage, and a launcher that takes one device."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
    return tmp_path


@pytest.fixture
def fields(workshop) -> Fields:
    return tiny_fields(workshop / "model", workshop / "collection", workshop / "runs" / "new")


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the launcher says when it refuses; it must be one line."""
    capsys.readouterr()
    assert load_launcher().main(arguments) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    return said


def edit_file(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def split_answers_into_letters(model: Path) -> None:
    """Takes `0` and `1` out of the vocabulary's reach: every digit becomes two tokens."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    two_marks = {"type": "Replace", "pattern": {"Regex": "[01]"}, "content": "ab"}
    before = tokenizer["normalizer"]
    parts = [two_marks, before] if before else [two_marks]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": parts}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def prepend_line(file: Path, line: str) -> None:
    file.write_text(line + "\n" + file.read_text())


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda root: (root / "model/model.safetensors").unlink(), "model"),
    "truncated weights": (lambda root: truncate(root / "model/model.safetensors"), "model.safetensors"),
    "no model config": (lambda root: (root / "model/config.json").unlink(), "config.json"),
    "vocabulary too small": (
        lambda root: edit_file(root / "model/config.json", '"vocab_size": 496', '"vocab_size": 400'),
        "400|embed",
    ),
    "no tokenizer": (lambda root: (root / "model/tokenizer.json").unlink(), "tokenizer.json"),
    "damaged tokenizer": (lambda root: truncate(root / "model/tokenizer.json"), "tokenizer"),
    "answers of two tokens": (
        lambda root: split_answers_into_letters(root / "model"),
        "'0'.*not as one token",
    ),
    "empty corpus": (lambda root: (root / "collection/corpus.jsonl").write_text(""), "no documents"),
    "empty queries": (lambda root: (root / "collection/queries.jsonl").write_text("\n"), "no queries"),
    "empty judgements": (lambda root: (root / "collection/qrels/train.tsv").write_text(""), "no qrels"),
    "absent documents": (
        lambda root: edit_file(root / "collection/qrels/train.tsv", "\td3-1\t", "\tabsent\t"),
        "absent documents.*'absent'",
    ),
    "no json": (
        lambda root: edit_file(root / "collection/corpus.jsonl", '{"_id": "d2-0"', '{_id": "d2-0"'),
        r"corpus\.jsonl, line \d+",
    ),
    "held-out split with a flaw": (
        lambda root: edit_file(root / "collection/qrels/dev.tsv", "q1\td1-0\t2", "q1\td1-0\ttwo"),
        r"dev\.tsv, line 4: the grade 'two'",
    ),
    "no utf-8": (lambda root: (root / "collection/queries.jsonl").write_bytes(b"\xff"), "line 1.*UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_named(name, workshop, fields, capsys):
    damage, message = DAMAGES[name]
    damage(workshop)
    assert re.search(message, refusal(command_line(fields), capsys))
    left = workshop / "runs" / "new"
    assert not left.exists() or {path.name for path in left.iterdir()} <= {".lock", "data"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.stepz": 3}, r"unknown field train\.stepz.*train\.steps"),
        ({"train.steps": "many"}, r"train\.steps='many'.*type int"),
        ({"stage": 3}, "stage=3: give 1, 2, or both to launch/tpu_train.py"),
        ({"data.buckets": "150,160"}, r"wrong type; give a value of type list of int, e\.g\. \[128, 256\]"),
        ({"model.source": "nowhere/to/be/found"}, "no such folder"),
        ({"model.source": ""}, r"model\.source"),
        ({"data.source": "/nowhere"}, r"data\.source='/nowhere'"),
        (
            {"data.source": "ir_datasets:beir/nfcorpuz/train"},
            r"^error: data\.source='ir_datasets:beir/nfcorpuz/train': unknown id; did you mean",
        ),
        ({"data.source": "ir_datasets:beir/nfcorpus/train"}, r"data\.probe_source='': .*held-out source"),
        ({"data.split": "tset"}, r"data\.split='tset'.*dev, train"),
        ({"data.probe_split": "tset"}, "'tset'.*dev, train"),
        ({"data.probe_split": "nowhere"}, "data.probe_split='nowhere': .*choose one of"),
        ({"data.probe_split": "train"}, "data.probe_split='train': .*see the training queries; move"),
        ({"data.probe_source": "/nowhere"}, r"^error: data\.probe_source='/nowhere': no such"),
        (
            {"data.probe_source": "ir_datasets:beir/nfcorpuz"},
            r"^error: data\.probe_source='ir_datasets:beir/nfcorpuz': unknown id",
        ),
        ({"data.split": "all"}, "data.probe_split='dev': .*see the training queries"),
        ({"data.max_length": 150, "data.buckets": ()}, r"data\.max_length=150.*at least \d+"),
        ({"data.buckets": (150, 160)}, r"data\.buckets=\(150, 160\).*208"),
        ({"data.max_length": 2000, "data.buckets": ()}, r"data\.max_length=2000.*256"),
        ({"train.batch_size": 1000}, r"train\.batch_size=1000.*500"),
        ({"train.batch_size": 3}, r"train\.batch_size=3.*even"),
        ({"mesh.data": 3}, r"mesh=\(3, 1, 1\)"),
        ({"optimizer.warmup_steps": 24}, r"optimizer\.warmup_steps=24"),
        ({"train.seed": -1}, r"train\.seed=-1"),
    ],
)
def test_fields_that_cannot_work_are_named(changes, message, workshop, fields, capsys):
    assert re.search(message, refusal(command_line(fields | changes), capsys))
    left = workshop / "runs" / "new"
    assert not left.exists() or {path.name for path in left.iterdir()} <= {".lock", "data"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "missing.yaml"], "missing.yaml.*no such file"),
        (["--config"], "--config has no value"),
        (["--train.steps"], r"--train\.steps has no value"),
        (["train.steps", "3"], "'train.steps' is no option"),
        (["--optimizer", "sgd"], "is a section"),
    ],
)
def test_command_lines_that_cannot_be_read(arguments, message, workshop, capsys, monkeypatch):
    monkeypatch.chdir(workshop)
    assert re.search(message, refusal(arguments, capsys))


@pytest.mark.parametrize("text", ["train: [", "train: 3", "- a", "train: {steps: 1, steps: 2}", "\0"])
def test_configs_that_cannot_be_read(text, workshop, capsys):
    (workshop / "run.yaml").write_text(text)
    assert "run.yaml" in refusal(["--config", str(workshop / "run.yaml")], capsys)


def folder_content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_of_another_run_is_left_alone(fields, capsys):
    output_dir = Path(fields["output_dir"])
    output_dir.mkdir(parents=True)
    other = config_to_dict(load_config(None, fields | {"train.seed": 7}))
    (output_dir / "config.yaml").write_text(yaml.safe_dump(other))
    before = folder_content(output_dir)
    assert re.search("train.seed is 7 there, 0 here", refusal(command_line(fields), capsys))
    assert folder_content(output_dir) == before


def test_a_folder_of_something_else_is_left_alone(workshop, fields, capsys):
    (workshop / "thesis.txt").write_text("precious")
    before = folder_content(workshop)
    assert "no config.yaml of a run" in refusal(command_line(fields | {"output_dir": str(workshop)}), capsys)
    assert folder_content(workshop) == before


@pytest.mark.parametrize("output_dir", ["{root}/file", "{root}/file/run", "/proc/run", "x" * 5000, "a\0b"])
def test_an_output_dir_that_cannot_be_written_to(output_dir, workshop, fields, capsys):
    (workshop / "file").write_text("precious")
    output_dir = output_dir.format(root=workshop)
    refusal(command_line(fields | {"output_dir": output_dir}), capsys)
    assert (workshop / "file").read_text() == "precious"


def test_a_flaw_can_be_mended_and_the_same_folder_used(workshop, fields, capsys, monkeypatch):
    """What a refused run has written must not make its folder a stranger's."""
    dev = workshop / "collection/qrels/dev.tsv"
    judgements = dev.read_text()
    dev.write_text("q1\td1-0\tone\n")
    refusal(command_line(fields), capsys)
    dev.write_text(judgements)
    monkeypatch.setattr("prorank_jax.train.prepare_run", Mock(side_effect=RuntimeError("accepted")))
    with pytest.raises(RuntimeError, match="accepted"):
        load_launcher().main(command_line(fields))


@pytest.mark.parametrize(
    ("stop", "code"), [(Interrupted("stopped after step 3"), 143), (KeyboardInterrupt(), 130)]
)
def test_a_run_that_was_told_to_stop_says_so(stop, code, fields, capsys, monkeypatch):
    monkeypatch.setattr("prorank_jax.train.train", Mock(side_effect=stop))
    assert load_launcher().main(command_line(fields)) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("told", "stages", "code"), [([15], [1], 143), ([], [1, 2], 0)])
def test_a_stage_does_not_begin_after_a_sigterm(told, stages, code, fields, capsys, monkeypatch):
    trained = []

    def finish(config: Any, **options: list[int]) -> None:
        trained.append(config.stage)
        options["told"] += told

    monkeypatch.setattr("prorank_jax.train.train", finish)
    both = fields | {"stage": "both", "stage1.data.buckets": (180, 208)}
    del both["data.buckets"]
    assert load_launcher().main(command_line(both)) == code
    assert trained == stages
    assert capsys.readouterr().err == (
        "stopped before stage 2; the same command goes on from there\n" if told else ""
    )


def test_help_names_every_field_and_its_default(capsys):
    assert load_launcher().main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--train.steps (default 200)" in said
    assert "--grpo.group_size" in said


def test_as_a_process_a_bad_input_is_one_line_too(workshop, fields):
    (workshop / "model/model.safetensors").unlink()
    finished = subprocess.run(
        [sys.executable, str(LAUNCHER), *command_line(fields)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", finished.stderr)
    assert finished.stdout == ""
    assert not Path(fields["output_dir"]).exists()
