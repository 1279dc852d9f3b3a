"""Names of sources say what kind of source they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.config_files import load_config
from prorank_jax.ranking_objective import check_losses
from prorank_jax.source_names import names_embedding_file, same_for_all_names

FILES = ["triples.jsonl", "folder/groups.json", "gs://bucket/groups.jsonl", "pairs.jsonl.gz"]
OTHERS = ["demo", "ir_datasets:beir/scifact/train", "folder", "folder.jsonl/beir", "notes.txt", "x.gz"]


@pytest.mark.parametrize(("source", "expected"), [(s, True) for s in FILES] + [(s, False) for s in OTHERS])
def test_files_of_groups_are_told_by_their_ending(source: str, expected: bool) -> None:
    assert names_embedding_file(source) == expected


def test_a_folder_is_no_file_of_groups(tmp_path):
    folder = tmp_path / "collection.jsonl"
    assert names_embedding_file(str(folder))
    folder.mkdir()
    assert not names_embedding_file(str(folder))


@pytest.mark.parametrize("source", FILES)
def test_such_a_file_may_bring_a_teachers_scores(source: str) -> None:
    fields = {"stage": 2, "data.source": source, "ranking.losses": "margin_mse=1"}
    assert check_losses(load_config(None, fields)) == {"margin_mse": 1.0}


def test_all_names_of_a_source_have_it_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to("theirs")
    names = ["theirs", "theirs/", "./theirs", "link", "link/../theirs", "~/theirs", str(tmp_path / "theirs")]
    assert {same_for_all_names(name) for name in names} == {str(tmp_path / "theirs")}
    assert same_for_all_names("gs://bucket/a/") == same_for_all_names("gs://bucket/a")
    for name in ("demo", "ir_datasets:beir/scifact/train"):
        assert same_for_all_names(name) == name
    assert same_for_all_names("./demo") == str(tmp_path / "demo")


def test_what_can_be_no_path_is_left_to_whoever_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert same_for_all_names("a\0b") == "a\0b"
    assert Path(same_for_all_names("loop")).name == "loop"
    assert same_for_all_names("~nobody-of-this-name/a").endswith("~nobody-of-this-name/a")
