"""What a config file says of its own source is not taken for another one's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from prorank_jax.config import DataOptions
from prorank_jax.config_files import config_to_dict, field_paths, load_config
from prorank_jax.config_sources import OF_ITS_SOURCE, SOURCE
from prorank_jax.stage_plan import planned_runs

ROOT = Path(__file__).parents[2]
# Of each file, the stages that it is for.
SHIPPED = [
    (file, stage)
    for file in sorted((ROOT / "configs").rglob("*.yaml"))
    for stage in (1, 2)
    if "stage2:" in file.read_text() or f"stage{stage}" in file.stem
]
DATA = {
    "source": "theirs",
    "split": "some",
    "probe_source": "beside",
    "probe_split": "few",
    "negatives_run": "dense.trec",
    "teacher_scores": "scores.tsv",
    "teacher_depth": 3,
    "max_length": 99,
}


def _write(folder: Path, data: dict[str, object], **sections: object) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"data": data} | sections))
    return file


@pytest.mark.parametrize(("file", "stage"), SHIPPED, ids=lambda part: getattr(part, "stem", str(part)))
def test_with_a_shipped_config_own_data_is_probed_on_itself(file: Path, stage: int) -> None:
    data = load_config(file, {"stage": stage, SOURCE: "mine.jsonl"}).data
    assert (data.split, data.probe_source, data.probe_split) == ("train", "", "dev")
    assert (data.teacher_scores, data.teacher_depth) == ("", 0)


def test_the_fields_of_another_source_are_lost_alone_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = _write(tmp_path, DATA)
    data = load_config(file, {SOURCE: "mine", "data.split": "all"}).data
    assert data == DataOptions(source="mine", split="all", max_length=99)
    (said,) = caplog.messages
    assert "left out data.probe_source='beside', data.probe_split='few', data.negatives_run=" in said
    assert "data.teacher_depth=3: about data.source='theirs', not 'mine'; give as an option" in said
    assert "data.split" not in said


def test_the_threshold_of_another_files_scores_is_lost_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = _write(tmp_path, {"source": "theirs.jsonl", "relevant_score": 0.5})
    assert load_config(file, {SOURCE: "mine.jsonl"}).data == DataOptions(source="mine.jsonl")
    assert "left out data.relevant_score=0.5: about data.source='theirs.jsonl'" in caplog.text


@pytest.mark.parametrize("name", OF_ITS_SOURCE)
def test_what_is_given_beside_another_source_holds(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path, DATA)
    needs = {
        "data.teacher_depth": {"data.teacher_scores": "x"},
        "data.relevant_score": {"data.probe_source": "x.jsonl"},
    }
    needed: dict[str, object] = needs.get(name, {})
    value = {int: 5, str: "given"}.get(field_paths()[name], 0.5)
    data = load_config(file, {SOURCE: "mine", name: value} | needed).data
    assert getattr(data, name.removeprefix("data.")) == value


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {SOURCE: "theirs"},
        {SOURCE: "theirs/"},
        {SOURCE: "./theirs"},
        {SOURCE: str(Path("theirs").absolute())},
        {"data.max_length": 50},
    ],
    ids=["nothing", "same text", "slash", "dot", "absolute", "other field"],
)
def test_a_file_keeps_what_it_says_of_its_own_source(
    tmp_path: Path, overrides: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    data = load_config(_write(tmp_path, DATA), overrides).data
    given = {name.removeprefix("data."): value for name, value in overrides.items()}
    assert asdict(data).items() >= (DATA | given).items()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("theirs", "chosen"),
    [
        ("demo", "./demo"),
        ("ir_datasets:beir/scifact/train", "ir_datasets:beir/scifact/dev"),
        ("gs://bucket/theirs", "gs://bucket/theirs/more"),
        ("theirs", "theirs/more"),
    ],
)
def test_another_source_is_told_by_what_it_names(tmp_path: Path, theirs: str, chosen: str) -> None:
    data = load_config(_write(tmp_path, DATA | {"source": theirs}), {SOURCE: chosen}).data
    assert data == DataOptions(source=chosen, max_length=99)


def test_a_program_that_gives_no_text_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.source"):
        load_config(_write(tmp_path, DATA), {SOURCE: 3})


def test_a_file_without_a_source_says_what_it_says_of_any(tmp_path: Path) -> None:
    file = _write(tmp_path, {"probe_split": "few", "probe_source": "beside"})
    data = load_config(file, {SOURCE: "mine"}).data
    assert (data.source, data.probe_split, data.probe_source) == ("mine", "few", "beside")


def test_the_config_of_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, DATA), {})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(tmp_path / "config.yaml", {"output_dir": "elsewhere"}).data == config.data


def test_the_source_of_one_stage_is_looked_at_for_that_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = _write(tmp_path, DATA, stage2={"data": {"source": "second", "probe_split": "own"}})
    both = ["--stage", "both", "--config", str(file)]
    first, second = planned_runs([*both, "--stage2.data.source", "mine"])
    assert (first.data.source, first.data.probe_split) == ("theirs", "few")
    assert (second.data.source, second.data.probe_source, second.data.probe_split) == ("mine", "", "dev")
    caplog.clear()
    (tmp_path / "other").mkdir()
    planned_runs(
        ["--stage", "both", "--config", str(_write(tmp_path / "other", DATA)), "--data.source", "mine"]
    )
    assert len(caplog.messages) == 1
