"""A model that is measured or tuned on its own training split is told so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prorank_jax.card_results import table
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_to_dict
from prorank_jax.evaluation.names import DatasetName, parse_dataset
from prorank_jax.trained_on import card_splits, training_splits, training_warnings, was_trained_on
from tests.cpu.data_fixtures import write_beir_folder


def write_run(folder: Path, source: str, split: str, model: str = "base") -> Path:
    folder.mkdir()
    config = config_to_dict(RunConfig())
    config["data"] |= {"source": source, "split": split}
    config["model"]["source"] = model
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "model_config.json").write_text("{}")
    return folder


def test_each_run_and_the_export_it_started_from_are_followed(tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    rows = [("`data.source`", "`demo`"), ("`data.split`", "`dev`"), ("`data.seed`", "`3`")]
    (export / "README.md").write_text(f"# card\n\n{table(('field', 'value'), rows)}\n")
    first = write_run(tmp_path / "first", "one", "train", str(export))
    second = write_run(tmp_path / "second", "ir_datasets:beir/scifact/train", "train", str(first))
    assert training_splits(str(export)) == [("demo", "dev")]
    assert set(training_splits(str(second))) == {
        ("demo", "dev"),
        ("one", "train"),
        ("ir_datasets:beir/scifact/train", "train"),
    }


def test_a_run_that_started_from_itself_ends(tmp_path):
    run = write_run(tmp_path / "run", "demo", "train", str(tmp_path / "run"))
    assert training_splits(str(run)) == [("demo", "train")]


def test_a_card_of_several_runs_and_of_none():
    def card(*splits: tuple[str, str]) -> str:
        return "\n".join(
            table(("field", "value"), [("`data.source`", f"`{source}`"), ("`data.split`", f"`{split}`")])
            for source, split in splits
        )

    assert card_splits(card(("a", "x"), ("b", "y"))) == [("a", "x"), ("b", "y")]
    assert card_splits("no table") == []


@pytest.mark.parametrize(
    ("dataset", "split", "is_known"),
    [
        ("demo:train", ("demo", "train"), True),
        ("demo:dev", ("demo", "train"), False),
        ("beir/scifact/train", ("ir_datasets:beir/scifact/train", "any"), True),
        ("ir_datasets:beir/scifact/train", ("ir_datasets:beir/scifact/train", ""), True),
        ("beir/scifact/test", ("ir_datasets:beir/scifact/train", "test"), False),
        ("./one", ("one/", "test"), True),
        ("one", ("{here}/link", "test"), True),
        ("{here}/one", ("elsewhere/one", "test"), False),
        ("{here}/one", ("one", "test"), True),
    ],
)
def test_names_of_one_split_are_the_same(dataset, split, is_known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_beir_folder(tmp_path / "one", split="test")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    parsed = parse_dataset(dataset.format(here=tmp_path))
    assert was_trained_on(parsed, [(split[0].format(here=tmp_path), split[1])]) is is_known


def test_a_card_names_a_folder_by_its_last_part(tmp_path):
    dataset = DatasetName("x", str(tmp_path / "scifact"), "train")
    assert was_trained_on(dataset, [("scifact", "train")])
    assert not was_trained_on(dataset, [("scifact", "dev")])


def test_relative_paths_are_known_again_from_elsewhere(tmp_path, monkeypatch):
    """Of a card the last part is compared, of a run the folder that it was started in."""
    assert card_splits("| `data.source` | `path/to/scifact` |\n| `data.split` | `train` |") == [
        ("scifact", "train")
    ]
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    run = write_run(home / "runs" / "stage1", "data/scifact", "train")  # output_dir is runs/stage1
    monkeypatch.chdir(tmp_path)
    dataset = DatasetName("x", str(home / "data" / "scifact"), "train")
    assert was_trained_on(dataset, training_splits(str(run)))
    assert not was_trained_on(
        DatasetName("x", str(tmp_path / "data" / "scifact"), "train"), training_splits(str(run))
    )


def test_each_known_split_is_one_line():
    train, dev = parse_dataset("demo:train"), parse_dataset("demo:dev")
    lines = training_warnings([dev, train], [train, train], [("demo", "train")])
    assert len(lines) == 2
    assert lines[0].startswith("warning: demo:train: the model was trained on this split")
    assert lines[1].startswith("warning: fusion_tune='demo:train': the model was trained on this split")
    assert training_warnings([dev], [None], [("demo", "train")]) == []
