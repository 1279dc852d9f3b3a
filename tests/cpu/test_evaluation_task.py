"""The datasets of an evaluation: what their scores are known by."""

from __future__ import annotations

import pytest

from prorank_jax.evaluation.names import parse_dataset
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation_scores import WHOLE
from prorank_jax.evaluation_task import prepare_task
from prorank_jax.trec import write_run
from tests.cpu.data_fixtures import write_beir_folder


def test_scores_are_known_by_the_files_that_the_texts_were_read_from(tmp_path):
    """Many models may be evaluated on one reading, hours after it; the files may have changed by then."""
    folder = write_beir_folder(tmp_path / "one", queries=4, split="test")
    dataset, options = parse_dataset(str(folder)), EvaluationOptions("model", (str(folder),))

    def fingerprint() -> dict:
        return prepare_task(dataset, 0, options).header({})["dataset_fingerprint"]

    task, before = prepare_task(dataset, 0, options), fingerprint()
    corpus = folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("text number 1", "text number one"))
    assert task.header({})["dataset_fingerprint"] == before
    assert fingerprint() != before


def test_the_header_counts_the_queries_that_will_have_scores(tmp_path):
    folder = write_beir_folder(tmp_path / "one", queries=4, split="test")
    queries, judgements = folder / "queries.jsonl", folder / "qrels" / "test.tsv"
    queries.write_text(queries.read_text() + '{"_id": "odd", "text": "zzz"}\n')
    judgements.write_text(judgements.read_text() + "odd\td0-0\t1\n")
    task = prepare_task(parse_dataset(str(folder)), 0, EvaluationOptions("model", (str(folder),)))
    assert task.header({})["queries"] == 5
    assert task.header({})[WHOLE] == len(task.first_stage.candidates(3)) == 4


@pytest.mark.parametrize(("top_k", "kept"), [(1, 3), (3, 3), (5, 5)])
def test_of_a_run_only_the_texts_that_are_scored_or_shown_are_kept(top_k, kept, tmp_path):
    """And one more of each query: what is dropped as the query itself lets another one in."""
    folder = write_beir_folder(tmp_path / "one", queries=9, split="test")
    ranking = [f"d{number}-{part}" for number in range(9) for part in range(3)]
    rankings = {f"q{number}": ranking[number:] + ranking[:number] for number in range(9)}
    write_run(tmp_path / "run", rankings, "t")
    write_run(tmp_path / "other", dict.fromkeys(rankings, ranking[::-1]), "t")
    options = EvaluationOptions(
        "model", (str(folder),), (str(tmp_path / "run"),), (str(tmp_path / "other"),), top_k, queries=2
    )
    task = prepare_task(parse_dataset(str(folder)), 0, options)
    measured = task.first_stage.rankings
    assert len(measured) == 2
    best = {document for query in measured for document in rankings[query][: kept + 1]}
    assert task.collection.documents.keys() == best
    assert task.collection.unread == set(ranking) - best
    assert task.collection.document_count == 27


@pytest.mark.parametrize("top_k", [3, 120])
def test_bm25_gives_as_many_documents_as_are_reranked(top_k, tmp_path):
    folder = write_beir_folder(tmp_path / "one", queries=50, split="test")
    queries = folder / "queries.jsonl"
    queries.write_text(queries.read_text().replace("what is", "text of"))  # a word of all 150 documents
    options = EvaluationOptions("model", (str(folder),), top_k=top_k, queries=2)
    task = prepare_task(parse_dataset(str(folder)), 0, options)
    assert [len(given) for given in task.first_stage.candidates(top_k).values()] == [top_k, top_k]
