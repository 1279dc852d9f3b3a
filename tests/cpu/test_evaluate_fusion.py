"""Fusion from the command line to the files: apart from the reranker, resumable, tuned on other queries."""

from __future__ import annotations

import json
import re
import shutil
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from prorank_jax.evaluate import evaluate
from prorank_jax.evaluation.options import parse_options
from prorank_jax.score_origin import this_code_and_devices
from prorank_jax.trec import read_run
from tests.cpu.data_fixtures import write_beir_folder
from tests.cpu.test_evaluate import ARGUMENTS, content_of, fake, refusal, run, without_times, workshop

__all__ = ["fake", "workshop"]  # fixtures

RRF = ["--fusion", "rrf"]
TUNED = ["--fusion", "weighted", "--fusion_tune", "train", "--fusion_queries", "6"]


@pytest.fixture
def other_queries(workshop):
    """A collection with 12 queries, of which the last two are asked in no other."""
    return write_beir_folder(workshop / "train", queries=12, split="test")


def pure(folder):
    """What an evaluation says without a fusion."""
    content = json.loads((folder / "metrics.json").read_text())
    for entry in content["datasets"].values():
        entry.pop("fusion", None)
        del entry["pairs_per_second"]  # of seconds that scores.jsonl rounds
    content["average"].pop("fused", None)
    return json.dumps(content)


def test_a_fusion_leaves_the_reranker_as_it_was_and_scores_nothing_again(workshop, fake):
    run()
    out, pairs = workshop / "out", fake.scored
    before, runs = pure(out), (out / "one" / "reranked.trec").read_bytes()
    content = run(*RRF)
    assert fake.scored == pairs
    assert pure(out) == before
    assert (out / "one" / "reranked.trec").read_bytes() == runs
    fused = read_run(out / "one" / "fused.trec")
    assert fused != read_run(out / "one" / "reranked.trec")
    for entry in content["datasets"].values():
        fusion = entry["fusion"]
        assert (fusion["method"], fusion["weight"], fusion["tuned_on"]) == ("rrf", None, None)
        gains = {
            part: fusion["metrics"]["ndcg@10"] - entry[part]["ndcg@10"]
            for part in ("first_stage", "reranked")
        }
        assert fusion["over_first_stage"]["delta"] == pytest.approx(gains["first_stage"])
        assert fusion["over_reranked"]["delta"] == pytest.approx(gains["reranked"])
    records = [json.loads(line) for line in (out / "one" / "queries.jsonl").read_text().splitlines()]
    mean = np.mean([record["fused"]["ndcg@10"] for record in records])
    assert content["datasets"]["one"]["fusion"]["metrics"]["ndcg@10"] == pytest.approx(mean)
    page = (out / "report.html").read_text()
    assert "one, fused (rrf)" in page
    assert "model alone" in page
    run()  # without a fusion nothing of it is left that metrics.json does not know
    assert not (out / "one" / "fused.trec").exists()
    assert "fused" not in (out / "one" / "queries.jsonl").read_text()


@pytest.mark.usefixtures("fake", "workshop")
def test_different_fusions_are_not_averaged():
    assert "fused" in run(*RRF)["average"]
    weighted = ["--fusion", "weighted", "--fusion_weight", "0.5"]
    again = evaluate(
        parse_options(["--model", "model", "--dataset", "one", "--output_dir", "out", *weighted])
    )
    assert "average" in again
    assert "fused" not in again["average"]


@pytest.mark.parametrize(("weight", "same"), [("0", "first_stage"), ("1", "reranked")])
@pytest.mark.usefixtures("fake")
def test_the_ends_of_the_weight_are_the_two_systems(weight, same, workshop):
    content = run("--fusion", "weighted", "--fusion_weight", weight)
    for entry, folder in zip(content["datasets"].values(), ("one", "two-dev"), strict=True):
        assert entry["fusion"]["metrics"] == entry[same]
        files = workshop / "out" / folder
        assert read_run(files / "fused.trec") == read_run(files / f"{same}.trec")


@pytest.mark.usefixtures("other_queries", "workshop", "fake")
def test_tuning_on_scores_of_other_code_is_told(monkeypatch):
    run(*TUNED)
    ours = this_code_and_devices()
    monkeypatch.setattr("prorank_jax.score_origin.code_digest", lambda: "other")
    console = Console(file=StringIO(), width=1000)
    content = evaluate(parse_options([*ARGUMENTS, *TUNED]), console)
    assert content["datasets"]["one"]["fusion"]["tuned_on"]["scored_by"] == {ours: 2}
    assert f"train (tuning): 2 of 2 queries were scored before, by {ours}" in console.file.getvalue()


@pytest.mark.usefixtures("other_queries")
def test_tuning_sees_no_measured_query_and_resumes(workshop, fake):
    content = run(*TUNED)
    whole, pairs = without_times(workshop / "out"), fake.scored
    one, two = (entry["fusion"]["tuned_on"] for entry in content["datasets"].values())
    assert (one["dataset"], one["queries"], two["queries"]) == ("train", 2, 6)
    assert len(one["grid"]) == 21
    ours = this_code_and_devices()
    assert (one["scored_by"], two["scored_by"]) == ({ours: 2}, {ours: 6})
    lines = (workshop / "out" / "one" / "tuning-train-2.jsonl").read_text().splitlines()
    assert {json.loads(line)["query"] for line in lines[1:]} == {"q10", "q11"}
    shutil.rmtree(workshop / "out")
    fake.scored, fake.stop_after = 0, 5
    with pytest.raises(KeyboardInterrupt):
        run(*TUNED)
    fake.stop_after = None
    run(*TUNED)
    assert fake.scored == pairs
    assert without_times(workshop / "out") == whole


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("one", "fusion_tune='one': is measured too"),
        ("./two:dev", "fusion_tune='./two:dev': is measured too"),
        ("copy", "fusion_tune='copy': each of its 10 queries is asked in one/test too"),
        ("train:dev", "'dev'.*choose one of test"),
        ("train:dev", "fusion_tune='train:dev': split='dev'"),
        ("nowhere:train", "no such folder"),
    ],
)
@pytest.mark.usefixtures("other_queries")
def test_queries_that_cannot_be_tuned_on(tune, message, workshop, fake, capsys):
    shutil.copytree(workshop / "one", workshop / "copy")
    said = refusal(capsys, *ARGUMENTS, "--fusion", "weighted", "--fusion_tune", tune)
    assert re.search(message, said), said
    assert fake.scored == 0
    assert not any(name.endswith(".jsonl") and "/out/" in name for name in content_of(workshop))
