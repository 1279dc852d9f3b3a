"""What a run was trained on is read from its examples, and known when they are gone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from prorank_jax.config import DataOptions, RunConfig, TrainOptions
from prorank_jax.corpora import queries_to_train_on
from prorank_jax.judgements import judgements_of
from prorank_jax.query_choice import QueryChoice
from prorank_jax.records import DESCRIPTION_FILE, Example, ensure_records
from prorank_jax.reproduce.run_queries import documents_of_made_queries, drawn_queries
from prorank_jax.run_examples import open_examples
from tests.cpu.data_fixtures import WordRenderer


def test_what_made_queries_asked_for_is_read_from_the_examples_of_a_run(tmp_path):
    def example(query: str, document: str, label: int) -> Example:
        return Example(query, document, np.zeros(4, np.int32), label, label)

    made = [example("pseudo:d1", "d1", 1), example("pseudo:d1", "d2", 0), example("judged", "d3", 1)]
    ensure_records(tmp_path / "data", {"pseudo_queries": 1}, lambda: made)
    ensure_records(tmp_path / "data", {"pseudo_queries": 0}, lambda: [example("pseudo:d4", "d4", 1)])
    kept = tmp_path / "made_queries.json"
    assert documents_of_made_queries(tmp_path, kept) == {"d1"}
    shutil.rmtree(tmp_path / "data")
    documents_of_made_queries.cache_clear()
    assert documents_of_made_queries(tmp_path, kept) == {"d1"}
    assert documents_of_made_queries(tmp_path, tmp_path / "never kept") is None


@pytest.mark.parametrize("was_kept", [True, False])
@pytest.mark.parametrize("damaged", ["labels.npy", DESCRIPTION_FILE])
def test_damaged_examples_tell_no_more_than_deleted_ones(damaged, was_kept, tmp_path):
    """A finished run never makes them again."""
    made = [Example("pseudo:d1", "d1", np.zeros(4, np.int32), 1, 1)]
    ensure_records(tmp_path / "data", {"pseudo_queries": 1}, lambda: made)
    kept = tmp_path / "made_queries.json"
    if was_kept:
        assert documents_of_made_queries(tmp_path, kept) == {"d1"}
    (file,) = (tmp_path / "data").rglob(damaged)
    file.write_bytes(file.read_bytes()[:9])
    documents_of_made_queries.cache_clear()
    assert documents_of_made_queries(tmp_path, kept) == ({"d1"} if was_kept else None)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("most", [4, 9999])
def test_drawn_queries_are_those_that_a_run_was_trained_on(most, stage, tmp_path):
    """Not the held-out ones beside them, those made from documents, and those of another run's beginning."""
    data = DataOptions(source="demo", max_queries=most, pseudo_queries=3, max_length=96)
    config = RunConfig(stage=stage, data=data, train=TrainOptions(seed=7))
    open_examples(config, WordRenderer(), Console(quiet=True), tmp_path / "data", is_leaders=True)
    foreign = {"source": "demo", "split": "train", "most_queries": 5}
    ensure_records(tmp_path / "data", foreign, lambda: [Example("other", "d", np.zeros(4, np.int32), 1, 1)])
    expected = queries_to_train_on("demo", "train", data, 7, QueryChoice(most=most))
    assert len(expected) == min(most, len(judgements_of("demo", "train")))
    kept = tmp_path / "drawn_queries.json"
    assert drawn_queries(tmp_path, data, kept) == expected
    assert json.loads(kept.read_text()) == sorted(expected)
    shutil.rmtree(tmp_path / "data")
    drawn_queries.cache_clear()
    assert drawn_queries(tmp_path, data, kept) == expected
    assert drawn_queries(tmp_path, data, tmp_path / "never kept") is None
