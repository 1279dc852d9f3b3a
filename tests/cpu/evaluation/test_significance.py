"""The test and the interval against scipy and against counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.evaluation import significance
from prorank_jax.evaluation.significance import bootstrap_interval, compare, randomization_p_value


def differences(count, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, count)


def scipy_p(values):
    mean = lambda sample, axis: np.mean(sample, axis=axis)  # noqa: E731
    return scipy.stats.permutation_test(
        (values,), mean, permutation_type="samples", vectorized=True, n_resamples=20_000, random_state=1
    ).pvalue


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_few_queries_are_counted_exactly(values):
    """Integers tie often: patterns that reach the observed mean exactly must count."""
    flips = list(itertools.product([-1, 1], repeat=len(values)))
    extreme = [abs(np.dot(signs, values)) >= abs(sum(values)) for signs in flips]
    assert randomization_p_value(np.array(values) / 8) == pytest.approx(np.mean(extreme))


@pytest.mark.parametrize(("count", "shift"), [(9, 0.6), (12, 0.0), (14, 1.2)])
def test_exact_values_are_scipys(count, shift):
    values = differences(count, shift)
    assert randomization_p_value(values) == pytest.approx(scipy_p(values), abs=1e-9)


@pytest.mark.parametrize(("count", "shift"), [(40, 0.15), (200, 0.1), (200, 0.0)])
def test_random_flips_agree_with_scipys(count, shift):
    values = differences(count, shift)
    expected = scipy_p(values)
    # Two standard errors of scipy's 20,000 flips, twice over; ours has five times as many.
    assert randomization_p_value(values) == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-4
    )


def test_exact_and_random_flips_agree(monkeypatch):
    values = differences(15, 0.4)
    exact = randomization_p_value(values)
    monkeypatch.setattr("prorank_jax.evaluation.significance.MOST_EXACT", 0)
    assert randomization_p_value(values) == pytest.approx(exact, abs=0.006)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40))
def test_p_does_not_depend_on_sign_order_or_scale(seed, count):
    values = differences(count, 0.2, seed)
    p_value = randomization_p_value(values, flips=2000)
    assert 0 < p_value <= 1
    assert randomization_p_value(-values, flips=2000) == p_value
    assert randomization_p_value(values * 1e-3, flips=2000) == p_value
    assert randomization_p_value(np.append(values, 0.0), flips=2000) == p_value


def test_no_difference_is_no_evidence():
    comparison = compare({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": 0.1})
    assert (comparison.delta, comparison.p_value, comparison.interval) == (0.0, 1.0, (0.0, 0.0))
    assert (comparison.wins, comparison.ties, comparison.losses) == (0, 2, 0)


def test_under_the_null_hypothesis_p_is_uniform():
    p_values = [randomization_p_value(differences(20, 0.0, seed), flips=999) for seed in range(300)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_the_interval_is_scipys_percentile_bootstrap():
    values = differences(60, 0.3)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, random_state=1
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(differences(50, 1.0, seed), resamples=1000)
        covered += low <= 1.0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_systems_must_have_the_same_queries():
    with pytest.raises(ValueError, match="give both systems the same"):
        compare({"a": 1.0}, {"b": 1.0})
    comparison = compare({"a": 0.9, "b": 0.2, "c": 0.2}, {"a": 0.5, "b": 0.3, "c": 0.2})
    assert comparison.delta == pytest.approx(0.1)
    assert (comparison.wins, comparison.ties, comparison.losses) == (1, 1, 1)


def test_long_rows_are_drawn_few_at_a_time_and_short_ones_as_ever(monkeypatch):
    values = differences(100, 0.2)
    whole = randomization_p_value(values, flips=500), bootstrap_interval(values, resamples=500)
    assert significance._steps(4_500, 8_388) == [2_000, 2_000, 500]
    assert significance._steps(4_500, 2**23) == [2] * 2_250
    assert significance._steps(3, 2**25) == [1, 1, 1]
    monkeypatch.setattr(significance, "_CELLS", 400)
    few = randomization_p_value(values, flips=500), bootstrap_interval(values, resamples=500)
    assert few == whole  # the same random numbers, whatever is drawn at once


def test_a_mean_of_seeds_that_all_tie_is_a_tie():
    """0.1 is not the mean of three times 0.1, which is a rounding away."""
    old = {f"q{n}": 0.1 * n for n in range(1, 20)}
    pooled = {query: float(np.mean([value] * 3)) for query, value in old.items()}
    assert pooled != old
    result = compare(pooled, old)
    assert (result.wins, result.ties, result.losses, result.p_value) == (0, 19, 0, 1.0)


def test_a_p_value_of_random_flips_is_never_zero():
    assert randomization_p_value(np.ones(40), flips=100) == pytest.approx(1 / 101)
    assert randomization_p_value(np.ones(40)) == pytest.approx(1 / 100_001)  # unless it is told otherwise
