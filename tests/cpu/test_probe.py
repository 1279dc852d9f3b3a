"""The held-out probe: the area under the curve against every pair, and rows that are only filler."""

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.config import MeshOptions
from prorank_jax.probe import ProbeResult, area_under_roc, from_record, run_probe, to_record
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny import ANSWERS, random_batch

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # few values: many ties


@given(SCORES, SCORES)
def test_auc_counts_every_pair_and_half_of_the_ties(relevant, irrelevant):
    pairs = [(a > b) + 0.5 * (a == b) for a in relevant for b in irrelevant]
    scores = np.array(relevant + irrelevant)
    labels = np.array([1] * len(relevant) + [0] * len(irrelevant))
    assert area_under_roc(scores, labels) == pytest.approx(np.mean(pairs))


def test_auc_of_a_score_that_is_no_number_is_none():
    assert np.isnan(area_under_roc(np.array([0.5, np.nan, 1.0]), np.array([0, 1, 1])))


@pytest.mark.parametrize("label", [0, 1])
def test_auc_needs_both_labels(label):
    with pytest.raises(ValueError, match="AUC needs both"):
        area_under_roc(np.arange(3.0), np.full(3, label))


@given(st.lists(st.floats(), max_size=4), st.floats(0, 1) | st.just(math.nan))
def test_a_record_is_json_and_reads_back_with_nan_for_what_was_not_finite(scores, auc):
    result = ProbeResult(3, 4, 0.25, 0.5, auc, 0.125, scores, [0] * len(scores))
    again = from_record(json.loads(json.dumps(to_record(result), allow_nan=False)))
    np.testing.assert_array_equal(again.auc, auc)
    np.testing.assert_array_equal(again.scores, [s if math.isfinite(s) else math.nan for s in scores])
    assert (again.step, again.examples, again.labels) == (3, 4, result.labels)


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
    result = run_probe(answer_by_first_token, {}, [full, padded], ANSWERS, mesh, 7)
    assert (result.step, result.examples) == (7, 6)
    assert result.labels == [0, 1, 0, 1, 0, 1]
    assert result.scores == [*map(float, full.tokens[:, 0]), *map(float, padded.tokens[:2, 0])]
    assert result.format_rate == pytest.approx(3 / 6)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.relevant_share == pytest.approx(3 / 6)
    assert result.auc == area_under_roc(np.array(result.scores), np.array(result.labels))
