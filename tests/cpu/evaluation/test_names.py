"""What a dataset argument means, without any network."""

from __future__ import annotations

import pytest

from prorank_jax.evaluation.names import check_same_names, parse_dataset, parse_datasets, slug
from tests.cpu.data_fixtures import write_beir_folder


@pytest.mark.parametrize(
    ("name", "source", "split"),
    [
        ("demo", "demo", "test"),
        ("demo:dev", "demo", "dev"),
        ("beir/scifact/test", "ir_datasets:beir/scifact/test", ""),
        ("ir_datasets:beir/scifact/test", "ir_datasets:beir/scifact/test", ""),
        ("{folder}:dev", "{folder}", "dev"),
        ("{folder}", "{folder}", "test"),
        ("{folder}/a:b:dev", "{folder}/a:b", "dev"),
        ("{folder}/a:b", "{folder}/a:b", "test"),
    ],
)
def test_arguments(name, source, split, tmp_path):
    for folder in (tmp_path, tmp_path / "a:b"):
        write_beir_folder(folder, split="test")
    parsed = parse_dataset(name.format(folder=tmp_path))
    assert (parsed.source, parsed.split) == (source.format(folder=tmp_path), split)
    assert parsed.name == name.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beir/scifct/test", "dataset='beir/scifct/test'.*did you mean.*beir/scifact/test"),
        ("beir/nq/test", "did you mean beir/nq or "),
        ("beir/webis-touche2020/test", "did you mean beir/webis-touche2020 or "),
        ("beir/cqadupstack/gis/test", "did you mean beir/cqadupstack/gis or "),
        ("beir/nfcorpus/tset", "did you mean beir/nfcorpus/test or "),
        ("nothing-like-it-anywhere", "no folder and no id.*FOLDER:split"),
        ("ir_datasets:beir/nfcorpu", "did you mean.*beir/nfcorpus"),
        ("/nowhere/at/all:test", "no such folder"),
        ("./nowhere", "no such folder"),
        (" ", "is empty"),
    ],
)
def test_unknown_datasets_are_named_with_what_is_near(name, message):
    with pytest.raises(ValueError, match=message):
        parse_dataset(name)


def test_a_file_of_training_groups_is_no_dataset(tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}")
    for name in (f"{tmp_path}/mine.jsonl", f"{tmp_path}/mine.jsonl:dev"):
        with pytest.raises(
            ValueError, match=r"mine\.jsonl.*: a file; .* no collection to rank, so give 'demo'"
        ):
            parse_dataset(name)


def test_a_folder_without_a_test_split_lists_what_it_has(tmp_path):
    write_beir_folder(tmp_path / "train_only")
    with pytest.raises(ValueError, match=r"no 'test' split; name a split: .*train_only:train"):
        parse_dataset(str(tmp_path / "train_only"))
    with pytest.raises(ValueError, match="qrels/<split>"):
        parse_dataset(str(tmp_path))


@pytest.mark.parametrize("names", [["demo", "demo"], ["demo:dev", "demo-dev"], []])
def test_each_dataset_needs_a_folder_of_its_own(names):
    with pytest.raises(ValueError, match=r"told apart|none was named"):
        parse_datasets(names)


def test_one_split_under_two_names_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_beir_folder(tmp_path / "one", split="test")
    twice = [["demo", "demo:test"], ["one", "one:test"], ["one", str(tmp_path / "one")]]
    for names in twice:
        with pytest.raises(ValueError, match=r"names too: it would count twice.*name each once"):
            parse_datasets(names)
    assert [dataset.name for dataset in parse_datasets(["demo", "demo:dev", "one"])] == [
        "demo",
        "demo:dev",
        "one",
    ]
    datasets = parse_datasets(["one:test", "demo:dev"])
    check_same_names(datasets, ["demo:dev", "one:test", "gone/long/ago:test"])
    check_same_names(datasets, [])
    with pytest.raises(ValueError, match=r"dataset='one:test': the output folder has this split as 'one'"):
        check_same_names(datasets, ["demo", "one"])


def test_slugs_are_file_names():
    assert slug("beir/scifact/test") == "beir-scifact-test"
    assert slug("/data/my set:dev") == "data-my-set-dev"
    assert slug("../..") == "unnamed"
    assert len(slug("x" * 5000)) == 100


@pytest.mark.parametrize(
    ("name", "source", "split"),
    [
        ("gs://bucket/scifact:dev", "gs://bucket/scifact", "dev"),
        ("gs://bucket/scifact", "gs://bucket/scifact", "test"),
        ("file:///data/scifact/:train", "file:///data/scifact/", "train"),
    ],
)
def test_a_url_is_a_folder_with_a_split(name, source, split):
    dataset = parse_dataset(name)
    assert (dataset.name, dataset.source, dataset.split) == (name, source, split)
    assert dataset.place == (source.rstrip("/"), split)
