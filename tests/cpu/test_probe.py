"""The held-out probe: rows that are only filler or companions, and records of this version and others."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.auc import area_under_roc
from prorank_jax.config import MeshOptions
from prorank_jax.held_out import HeldOut
from prorank_jax.probe import ProbeResult, from_record, run_probe, to_record
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny import ANSWERS, random_batch

AUCS = st.floats(0, 1) | st.just(math.nan)


@given(st.lists(st.floats(), max_size=4), AUCS, st.lists(AUCS, max_size=4))
def test_a_record_is_json_and_reads_back_with_nan_for_what_was_not_finite(scores, auc, query_aucs):
    result = ProbeResult(3, 4, 0.25, 0.5, auc, 0.125, scores, [0] * len(scores), query_aucs)
    again = from_record(json.loads(json.dumps(to_record(result), allow_nan=False)))
    np.testing.assert_array_equal(again.auc, auc)
    np.testing.assert_array_equal(again.scores, [s if math.isfinite(s) else math.nan for s in scores])
    assert (again.step, again.examples, again.labels) == (3, 4, result.labels)
    np.testing.assert_array_equal(again.query_aucs, query_aucs)
    mean = np.mean(query_aucs) if query_aucs else math.nan
    np.testing.assert_array_equal(again.query_auc, mean)
    assert to_record(result)["query_auc"] == (None if math.isnan(mean) else mean)


def test_a_record_of_an_earlier_version_knows_no_order_within_queries():
    record = to_record(ProbeResult(3, 4, 0.25, 0.5, 0.75, 0.125, [0.5, 1.0], [0, 1], [1.0]))
    for later in ("query_auc", "query_aucs"):
        del record[later]
    again = from_record(record)
    assert (again.query_aucs, again.auc, again.scores) == ([], 0.75, [0.5, 1.0])
    assert math.isnan(again.query_auc)
    assert again.told == "format 0.250, accuracy 0.500, AUC 0.750"


def answer_by_first_token(params, batch):
    """Scores are first tokens; the answers of the rows in order: right, not ended, wrong, no answer."""
    del params
    zero, one, end = ANSWERS.zero, ANSWERS.one, ANSWERS.end
    answers = np.array([[zero, end], [one, zero], [one, end], [9, end]], np.int32)
    return batch.tokens[:, 0].astype(np.float32), answers


def test_filler_rows_do_not_count():
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    full, padded = random_batch(4), random_batch(4, seed=1)
    padded = padded.replace(examples=np.array([4, 5, -1, -1], np.int32))
    result = run_probe(answer_by_first_token, {}, HeldOut([full, padded], [], None), ANSWERS, mesh, 7)
    assert (result.step, result.examples) == (7, 6)
    assert result.labels == [0, 1, 0, 1, 0, 1]
    assert result.scores == [*map(float, full.tokens[:, 0]), *map(float, padded.tokens[:2, 0])]
    assert result.format_rate == pytest.approx(3 / 6)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.relevant_share == pytest.approx(3 / 6)
    assert result.auc == area_under_roc(np.array(result.scores), np.array(result.labels))
    assert result.query_aucs == []


def test_companions_are_read_for_the_order_within_queries_only():
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    sample, others = random_batch(4), random_batch(4, seed=2)
    others = others.replace(labels=np.zeros(4, np.int32), examples=np.array([5, 4, -1, -1], np.int32))
    queries = np.array([0, 1, 2, 3, 1, 3])  # of examples 1 and 3, which are relevant, one companion each
    alone = run_probe(answer_by_first_token, {}, HeldOut([sample], [], None), ANSWERS, mesh, 7)
    held_out = HeldOut([sample], [others], queries)
    result = run_probe(answer_by_first_token, {}, held_out, ANSWERS, mesh, 7)
    assert dataclasses.replace(result, query_aucs=[]) == alone
    (_, of_1, _, of_3), (to_3, to_1) = sample.tokens[:, 0], others.tokens[:2, 0]
    assert result.query_aucs == [0.5 * ((a > b) + (a >= b)) for a, b in ((of_1, to_1), (of_3, to_3))]
    assert result.told.endswith(f"AUC {alone.auc:.3f}, within 2 queries {result.query_auc:.3f}")
