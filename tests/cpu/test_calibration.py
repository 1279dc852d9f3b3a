"""Probabilities order documents exactly as the scores do, and Platt's two parameters are the best ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from prorank_jax.calibration import Calibration, fit_calibration, load_calibration, save_calibration

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(-60, 60, width=32)
PARAMETERS = st.tuples(st.floats(1e-3, 1e3), st.floats(-100, 100))


@given(st.lists(st.one_of(FINITE, USUAL), min_size=1, max_size=30), PARAMETERS)
def test_neighbouring_floats_stay_apart_and_in_order(values, parameters):
    scores = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        neighbours = np.nextafter(scores, np.float32(np.inf))
    scores = np.unique(np.concatenate([scores, neighbours[np.isfinite(neighbours)]]))  # ascending
    probabilities = Calibration(*parameters).probabilities(scores)
    assert probabilities.dtype == np.float64
    assert (np.diff(probabilities) > 0).all()
    assert ((probabilities > 0) & (probabilities < 1)).all()


@given(st.lists(USUAL, min_size=1), PARAMETERS)
def test_they_are_the_sigmoid_to_five_digits(values, parameters):
    scores, (slope, intercept) = np.array(values, np.float32), parameters
    expected = expit(slope * scores.astype(np.float64) + intercept)
    np.testing.assert_allclose(Calibration(*parameters).probabilities(scores), expected, rtol=0, atol=1e-5)


def test_the_two_zeros_are_equal():
    probabilities = Calibration().probabilities(np.array([0.0, -0.0], np.float32))
    assert probabilities[0] == probabilities[1]


@given(st.integers(0, 2**32 - 1), st.floats(1, 5), st.floats(-2, 2), st.floats(0.01, 100))
def test_fit_matches_the_moments_of_platts_targets(seed, slope, intercept, spread):
    """At the one minimum of the convex loss, probabilities and targets agree in sum and weighted sum."""
    rng = np.random.default_rng(seed)
    standard = rng.normal(size=200)
    labels = (rng.random(200) < expit(slope * standard + intercept)).astype(int)
    labels[np.argmax(standard)], labels[np.argmin(standard)] = 1, 0
    scores = (spread * standard + 3).astype(np.float32)
    positives, negatives = labels.sum(), 200 - labels.sum()
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    fitted = fit_calibration(scores, labels)
    errors = expit(fitted.slope * scores.astype(np.float64) + fitted.intercept) - targets
    assert np.mean(errors) == pytest.approx(0, abs=1e-6)
    assert np.mean(errors * standard) == pytest.approx(0, abs=1e-6)


def test_separable_labels_give_finite_parameters():
    scores = np.array([-2.0, -1.0, 1.0, 2.0], np.float32)
    fitted = fit_calibration(scores, [0, 0, 1, 1])
    assert fitted.probabilities(scores)[[0, 3]] == pytest.approx([0.25, 0.75], abs=0.1)


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ([1, 2, 3], [0, 1], "one for each pair"),
        ([1, 2], [[0], [1, 0]], "a list within the list"),
        ([1, 2, 3], [0, 1, 2], "must be 0"),
        ([1, 2, 3], [1, 1, 1], "3 relevant and 0 not"),
        ([], [], "0 relevant"),
        ([3, 2, 1, 0], [0, 0, 1, 1], "do not rise"),
        ([1, 1], [0, 1], "do not rise"),
    ],
)
def test_labels_that_cannot_be_fitted_are_refused(scores, labels, said):
    with pytest.raises(ValueError, match=said):
        fit_calibration(np.array(scores, np.float32), labels)


@pytest.mark.parametrize(
    "parameters",
    [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (1.0, float("nan"))],
)
def test_parameters_that_change_the_order_are_refused(parameters):
    with pytest.raises(ValueError, match=r"slope=|intercept="):
        Calibration(*parameters)


@given(st.floats(5e-324, 1.7e308), st.floats(allow_nan=False, allow_infinity=False))
def test_a_file_keeps_both_numbers_to_the_bit(tmp_path_factory, slope, intercept):
    file = tmp_path_factory.getbasetemp() / "calibration.json"
    save_calibration(file, Calibration(slope, intercept))
    assert load_calibration(str(file)) == Calibration(slope, intercept)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "Expecting value"),
        (b'{"slope": 1.0, "inter', "Unterminated string"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"[1.0, 0.0]", "it is not {"),
        (b'{"slope": 1.0}', "it is not {"),
        (b'{"slope": 1.0, "intercept": 0.0, "more": 1}', "it is not {"),
        (b'{"slope": "1", "intercept": 0.0}', "slope='1': must be a number"),
        (b'{"slope": true, "intercept": 0.0}', "slope=True: must be a number"),
        (b'{"slope": NaN, "intercept": 0.0}', "slope=nan"),
        (b'{"slope": 1.0, "intercept": Infinity}', "intercept=inf"),
        (b'{"slope": -1.0, "intercept": 0.0}', "slope=-1.0"),
        (b'{"slope": 1' + b"0" * 400 + b', "intercept": 0.0}', "slope: must be finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, said):
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"calibration={re.escape(repr(str(file)))}: .*{re.escape(said)}"):
        load_calibration(file)
