"""Answers are ordered by the raw score, whatever is shown of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.calibration import Calibration
from prorank_jax.serving.answers import make_answer
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.request_format import RerankRequest, parse_request

SCORES = st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=20)


def request_of(count: int, **fields) -> RerankRequest:
    body = {"query": "q", "documents": [f"d{index}" for index in range(count)]} | fields
    return parse_request(json.dumps(body).encode(), ServerOptions(model="m"))


def tei_request_of(count: int, **fields) -> RerankRequest:
    body = {"query": "q", "texts": [f"d{index}" for index in range(count)]} | fields
    return parse_request(json.dumps(body).encode(), ServerOptions(model="m"))


def test_the_format_of_cohere_and_jina():
    answer = make_answer(request_of(3, top_n=2, return_documents=True), np.float32([0, 2, 1]), "m")
    assert set(answer) == {"id", "model", "results", "meta"}
    assert answer["model"] == "m"
    assert [result["index"] for result in answer["results"]] == [1, 2]
    assert answer["results"][0]["document"] == {"text": "d1"}
    assert answer["results"][0]["relevance_score"] == pytest.approx(1 / (1 + math.exp(-2)))


def test_the_format_of_tei():
    scores = np.float32([0, 2])
    raw = make_answer(tei_request_of(2, raw_scores=True, return_text=True), scores, "m")
    assert raw == [{"index": 1, "score": 2.0, "text": "d1"}, {"index": 0, "score": 0.0, "text": "d0"}]
    squashed = make_answer(tei_request_of(2), scores, "m")
    assert squashed == [{"index": 1, "score": pytest.approx(0.880797)}, {"index": 0, "score": 0.5}]


@given(SCORES)
def test_the_order_is_that_of_the_raw_scores_and_of_the_request(values):
    answer = make_answer(request_of(len(values)), np.float32(values), "m")
    order = [result["index"] for result in answer["results"]]
    assert order == sorted(range(len(values)), key=lambda index: (-np.float32(values)[index], index))
    shown = [result["relevance_score"] for result in answer["results"]]
    assert shown == sorted(shown, reverse=True)
    assert all(0 <= score <= 1 for score in shown)
    json.dumps(answer, allow_nan=False)


@given(SCORES)
def test_calibrated_scores_stay_apart_wherever_float32_tells_them(values):
    calibration = Calibration(2.0, -1.0)
    scores = np.float32(values)
    results = make_answer(request_of(len(values)), scores, "m", calibration)["results"]
    by_index = {result["index"]: result["relevance_score"] for result in results}
    assert [by_index[index] for index in range(len(values))] == calibration.probabilities(scores).tolist()
    assert len(set(by_index.values())) == len(set(scores.tolist()))


def test_scores_stay_apart_where_float32_would_not_tell_them():
    close = np.float32([20.0, 21.0])
    assert np.float32(1 / (1 + np.exp(-close[0]))) == np.float32(1 / (1 + np.exp(-close[1])))
    best, second = make_answer(request_of(2), close, "m")["results"]
    assert (best["index"], second["index"]) == (1, 0)
    assert best["relevance_score"] > second["relevance_score"]
