"""Names of sources say what kind of source they are."""

from __future__ import annotations

import pytest

from prorank_jax.config_files import load_config
from prorank_jax.ranking_objective import check_losses
from prorank_jax.source_names import names_embedding_file

FILES = ["triples.jsonl", "folder/groups.json", "gs://bucket/groups.jsonl"]
OTHERS = ["demo", "ir_datasets:beir/scifact/train", "folder", "folder.jsonl/beir", "notes.txt"]


@pytest.mark.parametrize(("source", "expected"), [(s, True) for s in FILES] + [(s, False) for s in OTHERS])
def test_files_of_groups_are_told_by_their_ending(source: str, expected: bool) -> None:
    assert names_embedding_file(source) == expected


@pytest.mark.parametrize("source", FILES)
def test_such_a_file_may_bring_a_teachers_scores(source: str) -> None:
    fields = {"stage": 2, "data.source": source, "ranking.losses": "margin_mse=1"}
    assert check_losses(load_config(None, fields)) == {"margin_mse": 1.0}
