"""Models and collections at URLs are those of the folder, and follow it when it changes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.corpora import load_collection, load_groups, source_fingerprint
from prorank_jax.model_history import read_run_history
from prorank_jax.model_identity import model_identity
from prorank_jax.model_urls import fetch_model
from prorank_jax.models.sources import resolve_source
from prorank_jax.named_files import teacher_fingerprint
from prorank_jax.run_folder import (
    write_config,
    write_json,
)
from prorank_jax.run_names import is_run_directory
from prorank_jax.run_place import is_small_file
from prorank_jax.trained_on import training_splits
from tests.cpu.data_fixtures import write_beir_folder, write_jsonl


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_collection_at_a_url_is_that_of_the_folder(tmp_path):
    folder = write_beir_folder(tmp_path / "collection")
    url = f"file://{folder}"
    fetched, local = load_collection(url, "train"), load_collection(str(folder), "train")
    assert (fetched.documents, fetched.queries, fetched.qrels) == (
        local.documents,
        local.queries,
        local.qrels,
    )
    assert load_groups(url, "train", DataOptions()) == load_groups(str(folder), "train", DataOptions())
    assert source_fingerprint(url, "train") == source_fingerprint(str(folder), "train")
    with pytest.raises(ValueError, match=r"data\.split='tset'.*train"):
        load_collection(url, "tset")
    before = source_fingerprint(url, "train")
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1-0\t1\n")
    assert source_fingerprint(url, "train") != before


def test_a_file_of_groups_and_one_of_teacher_scores_come_by_url(tmp_path):
    group = {"query": "what is apple", "pos": ["apple text"], "neg": ["river text", "stone text"]}
    file = write_jsonl(tmp_path / "groups.jsonl", [group] * 3)
    options = DataOptions(source=f"file://{file}")
    assert load_groups(options.source, "train", options) == load_groups(str(file), "train", options)
    scores = DataOptions(teacher_scores=f"file://{file}")
    assert teacher_fingerprint(scores) == teacher_fingerprint(DataOptions(teacher_scores=str(file)))


@pytest.mark.parametrize("missing", ["nothing", "nothing.jsonl"])
def test_a_url_with_nothing_behind_it_is_named(missing, tmp_path):
    url = f"file://{tmp_path}/{missing}"
    with pytest.raises(ValueError, match=rf"data\.source='{url}'"):
        load_groups(url, "train", DataOptions())
    with pytest.raises(ValueError, match=rf"model\.source='{url}': nothing is there"):
        resolve_source(url)


def test_a_model_folder_comes_without_what_could_run_code(tmp_path):
    there = tmp_path / "model"
    (there / "more").mkdir(parents=True)
    given = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "pytorch_model.bin",
        "more/x.json",
    )
    for name in given:
        (there / name).write_text(name)
    here = resolve_source(f"file://{there}")
    assert sorted(path.name for path in here.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    (tmp_path / "model.gguf").write_text("weights")
    file = resolve_source(f"file://{tmp_path}/model.gguf")
    assert file.name == "model.gguf"
    assert file.read_text() == "weights"


def write_run(folder: Path, steps: tuple[int, ...]) -> None:
    (folder / "tokenizer").mkdir(parents=True)
    write_config(folder, RunConfig())
    write_json(folder / "model_config.json", {})
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")
    for step in steps:
        (folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text("{}")
        (folder / "checkpoints" / str(step) / "state" / "array").write_text(f"of step {step}")
        (folder / "checkpoints" / str(step) / "optimizer").mkdir()
        (folder / "checkpoints" / str(step) / "optimizer" / "array").write_text("moments")


def test_of_a_run_only_the_newest_checkpoint_comes(tmp_path, cache):
    there = tmp_path / "run"
    write_run(there, (4, 8))
    here = fetch_model(f"file://{there}", cache)
    assert is_run_directory(here)
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["8"]
    assert (here / "checkpoints/8/state/array").read_text() == "of step 8"
    assert not (here / "checkpoints/8/optimizer").exists()
    assert not (here / "metrics.jsonl").exists()
    shutil.rmtree(there)
    write_run(there, (4,))  # another run took its place
    here = fetch_model(f"file://{there}", cache)
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["4"]


def test_frozen_weights_come_with_a_checkpoint_and_go_with_their_run(tmp_path, cache):
    there = tmp_path / "run"
    write_run(there, (4, 8))
    (there / "checkpoints/frozen/weights").mkdir(parents=True)
    (there / "checkpoints/frozen/weights/array").write_text("of all steps")
    here = fetch_model(f"file://{there}@4", cache)
    assert sorted(path.name for path in (here / "checkpoints").iterdir()) == ["4", "frozen"]
    assert (here / "checkpoints/frozen/weights/array").read_text() == "of all steps"
    shutil.rmtree(there)
    write_run(there, (4,))  # another run took its place, which trains all parameters
    here = fetch_model(f"file://{there}@4", cache)
    assert not (here / "checkpoints/frozen").exists()


def test_of_a_run_a_named_checkpoint_comes(tmp_path, cache):
    there = tmp_path / "run"
    write_run(there, (4, 8))
    for step in (4, 8):
        here = fetch_model(f"file://{there}@{step}", cache)
        assert [path.name for path in (here / "checkpoints").iterdir()] == [str(step)]
        assert (here / f"checkpoints/{step}/state/array").read_text() == f"of step {step}"
        identity = {**model_identity(f"{there}@{step}"), "model": f"file://{there}@{step}"}
        assert model_identity(f"file://{there}@{step}") == identity
    with pytest.raises(ValueError, match=r"run@6': .*no checkpoint of step 6; there are: 4, 8 "):
        fetch_model(f"file://{there}@6", cache)
    with pytest.raises(ValueError, match=r"nothing@4': nothing is there"):
        fetch_model(f"file://{tmp_path}/nothing@4", cache)
    write_run(tmp_path / "run@4", (16,))  # a folder's own name
    here = fetch_model(f"file://{there}@4", cache)
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["16"]
    (tmp_path / "run@8").mkdir()  # of a model that is no run
    (tmp_path / "run@8" / "config.json").write_text("{}")
    assert [path.name for path in fetch_model(f"file://{there}@8", cache).iterdir()] == ["config.json"]


def test_a_model_in_the_place_of_a_run_is_not_that_run(tmp_path, cache):
    there = tmp_path / "model"
    write_run(there, (4,))
    assert is_run_directory(fetch_model(f"file://{there}", cache))
    shutil.rmtree(there)
    there.mkdir()
    (there / "config.json").write_text("{}")
    here = fetch_model(f"file://{there}", cache)
    assert [path.name for path in here.iterdir()] == ["config.json"]


def test_a_model_that_is_gone_is_not_the_copy_of_it(tmp_path):
    there = tmp_path / "model"
    there.mkdir()
    (there / "config.json").write_text("{}")
    assert resolve_source(f"file://{there}").is_dir()
    shutil.rmtree(there)
    with pytest.raises(ValueError, match="nothing is there"):
        resolve_source(f"file://{there}")


def test_what_a_model_was_trained_on_comes_by_url_too(tmp_path, caplog):
    """An export with its card, a run that started from it, and one that started from that, each at a URL."""
    export = tmp_path / "export"
    export.mkdir()
    (export / "config.json").write_text("{}")
    (export / "README.md").write_text("| `data.source` | `demo` |\n| `data.split` | `dev` |\n")
    folders = [export]
    for name in ("first", "second"):
        write_run(tmp_path / name, (4,))
        config = RunConfig()
        model = dataclasses.replace(config.model, source=f"file://{folders[-1]}")
        data = dataclasses.replace(config.data, source=name, split="train")
        write_config(tmp_path / name, dataclasses.replace(config, model=model, data=data))
        write_json(
            tmp_path / name / "report.json", {"before": {"auc": 0.5}, "after": {"auc": 0.75, "step": 4}}
        )
        folders.append(tmp_path / name)
    known = [("demo", "dev"), ("first", "train"), ("second", "train")]
    for count, folder in enumerate(folders, start=1):
        assert sorted(training_splits(f"file://{folder}")) == known[:count]
    source = f"file://{folders[-1]}"
    opened = SimpleNamespace(source=source, path=resolve_source(source))
    history = read_run_history(opened)
    assert [record.config.data.source for record in history.runs] == ["first", "second"]
    assert [record.after for record in history.runs] == [{"auc": 0.75, "step": 4}] * 2
    assert not caplog.records
    shutil.rmtree(folders[0])
    shutil.rmtree(folders[1])
    assert training_splits(source) == known[2:]


def test_the_step_that_a_run_started_from_is_known_by_url_too(tmp_path):
    write_run(tmp_path / "first", (4, 8))
    write_json(
        tmp_path / "first" / "report.json", {"before": {"auc": 0.5}, "after": {"auc": 0.75, "step": 8}}
    )
    write_run(tmp_path / "second", (4,))
    config = RunConfig()
    start = dataclasses.replace(config.model, source=f"file://{tmp_path}/first@4")
    write_config(tmp_path / "second", dataclasses.replace(config, model=start))
    source = f"file://{tmp_path}/second"
    history = read_run_history(SimpleNamespace(source=source, path=resolve_source(source)))
    assert [(record.step, record.before, record.after) for record in history.runs] == [
        (4, {"auc": 0.5}, {}),
        (4, {}, {}),
    ]
    assert training_splits(source) == [(config.data.source, config.data.split)] * 2


def test_a_start_that_cannot_be_reached_is_warned_of(tmp_path, caplog):
    write_run(tmp_path / "run", (4,))
    config = RunConfig()
    far = dataclasses.replace(config.model, source="s4://nowhere/run")
    write_config(tmp_path / "run", dataclasses.replace(config, model=far))
    assert training_splits(str(tmp_path / "run")) == [(config.data.source, config.data.split)]
    assert "what the model at its start was trained on is not known" in caplog.text


def test_what_goes_with_a_run():
    small = ["config.yaml", "metrics.jsonl", "tokenizer/tokenizer.json", "tensorboard/events.1", "report.png"]
    assert all(is_small_file(name) for name in small)
    others = [
        "data/x/y",
        "checkpoints/4/state",
        "lease.json",
        ".lock",
        ".config.yaml.1.tmp",
        "tokenizer/.x.tmp",
    ]
    assert not any(is_small_file(name) for name in others)
