"""The evaluation of a real small model gives the scores and the order of its reranker."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from prorank_jax.evaluate import evaluate
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.reranker import Reranker
from prorank_jax.trec import read_run
from tests.cpu.data_fixtures import write_beir_folder
from tests.cpu.tiny_run import write_model_folder


def test_a_real_model_from_folder_to_metrics(tmp_path):
    write_model_folder(tmp_path / "model")
    write_beir_folder(tmp_path / "one", queries=4, split="test")
    options = EvaluationOptions(
        str(tmp_path / "model"),
        (str(tmp_path / "one"),),
        top_k=3,
        output_dir=tmp_path / "out",
        max_length=208,
        batch_size=8,
    )
    content = evaluate(options, Console(file=StringIO()))
    (entry,) = content["datasets"].values()
    assert entry["queries"] == 4
    assert content["max_length"] == 208
    (scores,) = tmp_path.glob("out/*/scores.jsonl")
    records = [json.loads(line) for line in scores.read_text().splitlines()[1:]]
    reranker = Reranker.from_pretrained(str(tmp_path / "model"), max_length=208, batch_size=8)
    corpus = {
        record["_id"]: f"{record['title']} {record['text']}"
        for record in map(json.loads, (tmp_path / "one" / "corpus.jsonl").read_text().splitlines())
    }
    queries = {
        record["_id"]: record["text"]
        for record in map(json.loads, (tmp_path / "one" / "queries.jsonl").read_text().splitlines())
    }
    reranked = read_run(next(tmp_path.glob("out/*/reranked.trec")))
    for record in records:
        ranked = reranker.rank(queries[record["query"]], [corpus[name] for name in record["documents"]])
        assert record["scores"] == pytest.approx(
            [result.score for result in sorted(ranked, key=lambda result: result.index)], abs=1e-5
        )
        assert reranked[record["query"]] == [record["documents"][result.index] for result in ranked]
