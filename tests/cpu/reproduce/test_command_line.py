"""What an ablation is asked for: fields reach their stage, and what cannot work is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prorank_jax.config_sources import OF_ITS_SOURCE
from prorank_jax.reproduce.command_line import SET_BY, parse_options
from tests.cpu.data_fixtures import write_beir_folder


def test_fields_reach_one_stage_or_both_and_one_stage_wins():
    more = "--train.steps 30 --stage2.train.steps=7 --stage1.probe.examples 16 --mesh.tensor -1 --mesh.data 1"
    options = parse_options(["--dataset", "demo", *more.split()])
    assert (options.stage1.train.steps, options.stage2.train.steps) == (30, 7)
    assert options.stage1.probe.examples == 16 != options.stage2.probe.examples
    assert options.stage1.mesh == options.stage2.mesh
    assert options.stage1.mesh.tensor == -1
    assert options.evaluated_length == options.stage2.data.max_length
    assert options.command.startswith("python launch/reproduce.py --dataset demo --train.steps 30")


def test_splits_of_each_kind_of_dataset(tmp_path):
    folder = write_beir_folder(tmp_path / "beir")
    write_beir_folder(tmp_path / "other", split="late")
    (tmp_path / "other" / "qrels" / "late.tsv").rename(folder / "qrels" / "late.tsv")
    local = parse_options(["--dataset", str(folder), "--test_split", "late"])
    data = local.training_config("both", 0, tmp_path, "model").data
    assert (data.source, data.split, data.probe_source, data.probe_split) == (
        str(folder),
        "train",
        "",
        "late",
    )
    assert local.dataset_name == f"{folder}:late"
    listed = parse_options(["--dataset", "beir/nfcorpus"])
    data = listed.training_config("stage1", 0, tmp_path, "model").data
    assert data.source == "ir_datasets:beir/nfcorpus/train"
    assert data.probe_source == "ir_datasets:beir/nfcorpus/dev"
    assert listed.dataset_name == "beir/nfcorpus/dev"


def _recipe(folder: Path, source: str) -> list[str]:
    """Arguments that name a recipe for both stages, which says all that a file can say of its source."""
    said = dict.fromkeys(OF_ITS_SOURCE, "theirs") | {"data.teacher_depth": 3, "data.relevant_score": 0.5}
    if source == "demo":
        del said["data.relevant_score"]  # which it could not have
    data = {name.removeprefix("data."): value for name, value in said.items()} | {"source": source}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"data": data | {"max_length": 99}}))
    return ["--dataset", "demo", "--stage1", str(file), "--stage2", str(file)]


@pytest.mark.parametrize("source", ["another", "demo"])
def test_what_a_recipe_says_of_another_source_is_not_said_of_the_dataset(source, tmp_path, caplog):
    options = parse_options(_recipe(tmp_path, source))
    theirs = ("theirs", "theirs", 3) if source == "demo" else ("", "", 0)
    for row in ("stage1", "stage2"):
        data = options.training_config(row, 0, tmp_path, "model").data
        assert (data.negatives_run, data.teacher_scores, data.teacher_depth) == theirs
        assert data.relevant_score is None
        assert (data.source, data.split, data.probe_source, data.probe_split) == ("demo", "train", "", "dev")
        assert data.max_length == 99
    assert len(caplog.messages) == (source == "another")
    for said in caplog.messages:
        assert (
            "left out data.negatives_run='theirs', data.teacher_scores='theirs', data.teacher_depth=3, "
            "data.relevant_score=0.5:" in said
        )
    given = parse_options([*_recipe(tmp_path, source), "--stage2.data.negatives_run", "mine.trec"])
    assert (given.stage1.data.negatives_run, given.stage2.data.negatives_run) == (theirs[0], "mine.trec")


def test_a_dataset_that_names_no_split_leaves_a_recipe_its_own(tmp_path, caplog):
    """They are among a folder's settings, so a folder of an earlier version would be another ablation's."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"data": {"source": "mine", "split": "late", "probe_split": "test"}}))
    options = parse_options(["--dataset", "beir/nfcorpus", "--stage1", str(file), "--stage2", str(file)])
    for config in (options.training_config("stage2", 0, tmp_path, "m"), options.probe_config(tmp_path, "m")):
        assert (config.data.split, config.data.probe_split) == ("late", "test")
        assert config.data.source == "ir_datasets:beir/nfcorpus/train"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--test_split nowhere", "test_split='nowhere'.*the demo has train, dev, test"),
        ("--test_split nowhere", "test_split='nowhere': split='nowhere': the demo has"),
        ("--train_split dev", "test_split='dev': is what is trained on"),
        ("--dataset beir/scifact", "test_split='dev'.*did you mean.*beir/scifact/test"),
        ("--dataset nowhere_at_all", "dataset='nowhere_at_all', train_split='train'"),
        ("--seeds 0 1 0", r"seeds=\[0, 1, 0\]: name each seed once"),
        ("--seeds -1", r"seeds=\[-1\]: from 0"),
        ("--top_k 0", "top_k=0: must be at least 1"),
        ("--only neither", r"only=\['neither'\]: choose from base, stage1, stage2, both"),
        ("--output_dir gs://bucket/place", "name a folder on this machine"),
        ("--stage1 nowhere.yaml", "no such file"),
        ("--stage1 configs/demo_stage2.yaml", "is for stage 2; name a recipe of stage 1"),
        ("--stage1.train.step 3", "did you mean train.steps"),
        ("--seed 3", "unknown field seed"),
        ("--stage2.train.steps", "has no value"),
        ("--stage1.data.system Hello", "stage1.data.system='Hello': stage 2's is"),
        *((f"--stage2.{field} 1", f"--{field}=.*: is set by") for field in SET_BY),
    ],
)
def test_what_cannot_be_reproduced(more, said):
    with pytest.raises(ValueError, match=said):
        parse_options(["--dataset", "demo", *more.split()])
