"""A whole evaluation with a fake model: what is measured, and what the page and the pictures say of it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO, StringIO

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from prorank_jax.evaluation.ceiling import perfect_ranking, reach
from prorank_jax.evaluation.first_stage import bm25_first_stage
from prorank_jax.evaluation.fusion import Fusion
from prorank_jax.evaluation.harness import evaluate_collection
from prorank_jax.evaluation.metrics import METRICS
from prorank_jax.evaluation.output import metrics_content
from prorank_jax.evaluation.page import dataset_section, largest_changes, render_page, sections_of
from prorank_jax.evaluation.pictures import UNJUDGED, draw_gains, draw_scores, scores_by_grade
from prorank_jax.evaluation.progress import ScoringProgress
from prorank_jax.evaluation.summary import average, query_records, summarize
from prorank_jax.evaluation.tables import results_table
from prorank_jax.types import Document
from tests.cpu.evaluation.collections import CountingScorer, chunk_by_chunk, small_collection

SETTINGS = {"model": "m", "top_k": 100, "max_length": 64, "instruction": None}


@pytest.fixture(scope="module")
def collection():
    return small_collection(queries=12, documents=140)


@pytest.fixture(scope="module")
def first_stage(collection):
    return bm25_first_stage(collection, list(collection.queries))


def oracle(collection, sign=1.0):
    """A model that knows the grades."""
    grades = {
        (collection.queries[query], collection.documents[document].full_text): grade
        for query, judged in collection.qrels.items()
        for document, grade in judged.items()
    }
    return chunk_by_chunk(
        lambda pairs, _=None: np.array([sign * grades.get(pair, 0) for pair in pairs], np.float32)
    )


def test_a_model_that_knows_the_grades_is_perfect_within_its_candidates(collection, first_stage):
    evaluation = evaluate_collection(oracle(collection), collection, first_stage)
    best = {
        query: sorted(documents, key=lambda name: -collection.qrels[query].get(name, 0))
        for query, documents in first_stage.rankings.items()
    }
    ideal = evaluate_collection(
        chunk_by_chunk(CountingScorer()), collection, replace(first_stage, rankings=best)
    )
    assert evaluation.reranked.main == ideal.first_stage.main
    assert evaluation.gain.delta > 0.2
    assert evaluation.gain.p_value < 0.01
    assert evaluation.gain.losses == 0
    assert evaluation.ceiling.main == evaluation.reranked.main
    reverse = evaluate_collection(oracle(collection, -1.0), collection, first_stage)
    assert reverse.gain.delta < 0


def test_a_constant_model_changes_nothing(collection, first_stage):
    constant = evaluate_collection(
        chunk_by_chunk(lambda pairs, _: np.zeros(len(pairs), np.float32)), collection, first_stage, top_k=7
    )
    assert constant.reranked.rankings == first_stage.rankings
    assert constant.gain.delta == 0
    assert constant.gain.p_value == 1


@pytest.mark.parametrize("top_k", [1, 5, 20, 1000])
def test_recall_at_100_does_not_depend_on_top_k(top_k, collection, first_stage):
    evaluation = evaluate_collection(chunk_by_chunk(CountingScorer()), collection, first_stage, top_k=top_k)
    assert evaluation.reranked.metrics["recall@100"] == evaluation.first_stage.metrics["recall@100"]
    assert evaluation.pairs == sum(min(top_k, len(ranking)) for ranking in first_stage.rankings.values())
    for query, ranking in first_stage.rankings.items():
        assert evaluation.reranked.rankings[query][top_k:] == ranking[top_k:]
        assert sorted(evaluation.reranked.rankings[query]) == sorted(ranking)


def test_queries_without_candidates_score_zero_and_count(collection, first_stage):
    emptied = replace(first_stage, rankings={**first_stage.rankings, "q3": []})
    summary = summarize(evaluate_collection(oracle(collection), collection, emptied))
    assert summary["queries"] == 12
    nothing = replace(first_stage, rankings={query: [] for query in collection.queries})
    evaluation = evaluate_collection(chunk_by_chunk(CountingScorer()), collection, nothing)
    summary = summarize(evaluation)
    assert summary["reranked"] == dict.fromkeys(METRICS, 0.0)
    assert (summary["pairs"], summary["pairs_per_second"]) == (0, None)
    assert dataset_section("none", evaluation, collection).count("<p>none</p>") == 2


def test_a_speed_is_of_one_code_on_the_same_devices(collection, first_stage):
    evaluation = evaluate_collection(oracle(collection), collection, first_stage)
    for makers, told in (({}, True), ({"q1": "old"}, False)):
        scores = {
            query: replace(scored, seconds=2.0, scored_by=makers.get(query, "new"))
            for query, scored in evaluation.scores.items()
        }
        summary = summarize(replace(evaluation, scores=scores))
        assert summary["scored_by"] == {"old": 1, "new": len(scores) - 1} if makers else {"new": len(scores)}
        assert summary["pairs_per_second"] == (round(evaluation.pairs / (2 * 12), 2) if told else None)


def test_the_summary_has_the_documented_fields(collection, first_stage):
    other = {query: list(ranking)[::-1] for query, ranking in first_stage.rankings.items() if query != "q1"}
    evaluation = evaluate_collection(
        oracle(collection), collection, first_stage, compared=("other.trec", other)
    )
    summary = summarize(evaluation)
    assert set(summary["first_stage"]) == set(summary["reranked"]) == set(METRICS)
    mean = {part: summary[part]["ndcg@10"] for part in ("first_stage", "reranked")}
    assert summary["delta"] == pytest.approx(mean["reranked"] - mean["first_stage"])
    assert summary["interval"][0] < summary["delta"] < summary["interval"][1]
    assert summary["wins"] + summary["ties"] + summary["losses"] == summary["queries"] == 12
    assert summary["compared"]["run"] == "other.trec"
    assert summary["compared"]["delta"] == pytest.approx(
        mean["reranked"] - summary["compared"]["metrics"]["ndcg@10"]
    )
    assert evaluation.compared.main["q1"] == 0
    assert summary["compared"]["queries_lacking"] == len(first_stage.rankings.keys() - other.keys()) > 0
    records = query_records(evaluation)
    assert [record["query"] for record in records] == list(collection.queries)
    assert np.mean([record["reranked"]["map"] for record in records]) == pytest.approx(
        summary["reranked"]["map"]
    )


def test_the_average_is_over_datasets_not_queries():
    entries = {
        "a": {"first_stage": {"map": 0.2}, "reranked": {"map": 0.4}, "delta": 0.1, "queries": 1000},
        "b": {"first_stage": {"map": 0.4}, "reranked": {"map": 0.5}, "delta": 0.3, "queries": 1},
    }
    mean = average(entries)
    assert mean["first_stage"]["map"] == pytest.approx(0.3)
    assert mean["reranked"]["map"] == pytest.approx(0.45)
    assert mean["delta"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("fusions", "is_averaged"),
    [
        ([("rrf", None, None), ("rrf", None, None)], True),
        ([("weighted", 0.3, None), ("weighted", 0.3, None)], True),
        ([("weighted", 0.3, None), ("weighted", 0.8, None)], False),
        ([("weighted", 0.3, {"queries": 9}), ("weighted", 0.8, {"queries": 9})], True),
        ([("weighted", 0.3, {"queries": 9}), ("weighted", 0.3, None)], False),
        ([("weighted", 0.3, None), ("rrf", None, None)], False),
    ],
)
def test_fusions_are_averaged_where_they_were_made_alike(fusions, is_averaged):
    entries = {
        str(number): {
            **{part: {"map": 0.2} for part in ("first_stage", "reranked")},
            "delta": 0.1,
            "fusion": {"method": method, "weight": weight, "tuned_on": tuned_on, "metrics": {"map": 0.5}},
        }
        for number, (method, weight, tuned_on) in enumerate(fusions)
    }
    assert ("fused" in average(entries)) is is_averaged


def test_an_average_says_of_what_it_is(collection, first_stage):
    plain = summarize(evaluate_collection(oracle(collection), collection, first_stage))
    whole = plain | {"first_stage_name": "bm25", "sampled_from": None, "trained_on": False}
    other = plain | {"first_stage_name": "dense.trec", "sampled_from": 300, "trained_on": True}
    assert "mixed" not in average({"one": whole, "two": whole})
    mean = average({"one": whole, "two": other})
    assert mean["mixed"] == [
        "1 of 2 on a sample of the queries",
        "1 of 2 on queries that the model was trained on",
        "1 of 2 after a run, the others after BM25",
    ]
    content = {"model": "m", "top_k": 20, "datasets": {"one": whole, "two": other}, "average": mean}
    for sentence in mean["mixed"]:
        assert sentence in " ".join(printed(results_table(content)).split())


def test_the_note_on_an_average_counts_as_the_average_does(collection, first_stage):
    plain = summarize(evaluate_collection(oracle(collection), collection, first_stage))
    whole = plain | {"first_stage_name": "bm25", "sampled_from": None, "trained_on": False}
    forums = {f"beir/cqadupstack/{number}": whole for number in range(3)}
    assert average({**forums, "one": whole | {"trained_on": True}})["mixed"] == [
        "1 of 2 on queries that the model was trained on"
    ]
    forums["beir/cqadupstack/1"] = whole | {"sampled_from": 300}
    assert average({**forums, "one": whole})["mixed"] == ["1 of 2 on a sample of the queries"]


def test_the_forums_of_cqadupstack_count_as_one_dataset():
    def entry(value: float) -> dict:
        return {
            "first_stage": {"map": value},
            "reranked": {"map": value + 0.1},
            "delta": value,
            "fusion": {"method": "rrf", "metrics": {"map": value}},
        }

    forums = {
        f"beir/cqadupstack/{name}": entry(value) for name, value in (("android", 0.2), ("wordpress", 0.4))
    }
    named_in_full = {f"ir_datasets:{name}": value for name, value in forums.items()}
    assert average({**named_in_full, "demo": entry(0.7)}) == average({**forums, "demo": entry(0.7)})
    mean = average({**forums, "beir/scifact/test": entry(0.7)})
    assert mean["first_stage"]["map"] == mean["delta"] == mean["fused"]["map"] == pytest.approx(0.5)
    assert mean["reranked"]["map"] == pytest.approx(0.6)


def printed(table):
    console = Console(file=StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_the_table_fits_a_terminal_and_ends_with_the_average(collection, first_stage):
    entry = summarize(evaluate_collection(oracle(collection), collection, first_stage))
    content = metrics_content(SETTINGS, {}, {"beir/[red]fiqa/test": entry, "demo": entry})
    shown = printed(results_table(content)).splitlines()
    assert any(
        line.split()[0] == "demo" and f"{entry['delta']:+.3f}" in line for line in shown if line.strip()
    )
    assert [line for line in shown if line.strip()][-1].split()[0] == "average"
    assert "[red]fiqa" in "".join(shown)
    assert "first stage" in "".join(shown[2:])
    fusion = Fusion("weighted", 0.5)
    fused = summarize(evaluate_collection(oracle(collection), collection, first_stage, fusion=fusion))
    rows = printed(results_table(metrics_content(SETTINGS, {}, {"demo": fused, "two": fused})))
    over = fused["fusion"]["over_first_stage"]["delta"]
    assert rows.count(f"{over:+.3f}") == 3  # both datasets and their average
    assert "average, fused" in rows
    one_alone = metrics_content(SETTINGS, {}, {"demo": fused, "two": entry})
    assert "fused" not in one_alone["average"]
    bm25 = metrics_content(SETTINGS, {}, {"demo": entry | {"first_stage_name": "bm25"}})
    assert "BM25" in printed(results_table(bm25))
    assert "average" not in metrics_content(SETTINGS, {}, {"demo": entry})


def size_of(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(BytesIO(png)).shape[1::-1]


def test_pictures(collection, first_stage):
    evaluation = evaluate_collection(oracle(collection), collection, first_stage)
    groups = scores_by_grade(evaluation, collection.qrels)
    assert next(iter(groups)) == UNJUDGED
    assert list(groups)[1:] == sorted(list(groups)[1:])
    assert set(groups["grade 2"]) == {2.0}
    assert sum(map(len, groups.values())) == evaluation.pairs
    for png in (draw_gains(evaluation), draw_scores(evaluation, collection.qrels)):
        width, height = size_of(png)
        assert 900 < width < 1100
        assert 300 < height < 500


def test_the_page_is_self_contained_and_escapes_everything():
    evil = '<script>alert("x")</script>'
    collection = small_collection(queries=12, documents=140)
    collection = replace(
        collection,
        documents={n: Document(n, f"{d.text} {evil}", evil) for n, d in collection.documents.items()},
        queries={name: f"{text} {evil}" for name, text in collection.queries.items()},
    )
    evaluation = evaluate_collection(
        oracle(collection),
        collection,
        bm25_first_stage(collection, list(collection.queries)),
        compared=(evil, {}),
        fusion=Fusion("weighted", 0.5, {"dataset": evil, "queries": 3}),
    )
    entry = summarize(evaluation) | {"sampled_from": 99}
    content = metrics_content(SETTINGS | {"model": evil, "instruction": evil}, {"jax": evil}, {evil: entry})
    page = render_page(content, {evil: dataset_section(evil, evaluation, collection)})
    assert set(sections_of(page)) == {evil}
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10
    links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "http" not in page
    assert "random sample" in page
    assert "tuned on 3 queries of &lt;script&gt;" in page
    assert f"{entry['ceiling']['ndcg@10']:.3f}" in page
    assert f"{entry['delta']:+.3f}" in page


def test_the_examples_are_the_largest_changes(collection, first_stage):
    evaluation = evaluate_collection(chunk_by_chunk(CountingScorer()), collection, first_stage)
    wins, losses = largest_changes(evaluation, count=2)
    gains = {q: evaluation.reranked.main[q] - evaluation.first_stage.main[q] for q in collection.queries}
    assert wins == sorted(gains, key=lambda query: -gains[query])[:2]
    assert losses == sorted(gains, key=lambda query: gains[query])[:2]


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("prorank_jax.evaluation.progress.time.monotonic", lambda: clock[0])
    console = Console(file=StringIO(), width=200)
    with ScoringProgress(console, "[demo]", 1000) as progress:
        progress.resume(500)
        for _ in range(10):
            clock[0] += 10
            progress.advance(20)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "[demo]: 560/1000 pairs, 2.0 pairs/s, 3.7 min left"
    assert len(lines) == 3


def test_evaluation_never_imports_jax():
    code = """
import pkgutil, sys, importlib
import prorank_jax.evaluation as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"prorank_jax.evaluation.{module.name}")
import ranx
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_text_and_no_markup(collection, first_stage):
    entry = summarize(evaluate_collection(oracle(collection), collection, first_stage))
    shown = printed(results_table(metrics_content({**SETTINGS, "model": "m[/b][old]"}, {}, {"demo": entry})))
    assert "m[/b][old]" in shown


def test_reach_and_ceiling_are_of_the_candidates(collection, first_stage):
    scorer = chunk_by_chunk(CountingScorer())
    found = evaluate_collection(scorer, collection, first_stage, top_k=2)
    rankings = first_stage.rankings
    deepest = max(map(len, rankings.values()))
    assert found.reach == reach(rankings, collection.qrels, 2, deepest)
    assert found.reach != reach(rankings, collection.qrels, 100, deepest)
    for query, ranking in rankings.items():
        best = perfect_ranking(ranking, collection.qrels[query], 2)
        assert list(found.ceiling.rankings[query]) == best
