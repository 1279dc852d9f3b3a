"""Batches are balanced, fit their bucket, lose no example, and follow from the seed and the step."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.batch_order import BalancedOrder, choose_buckets, permutation

BUCKETS = (16, 32, 64)
PINNED = [1, 2, 4, 6, 5, 0, 7, 3]
PINNED_EPOCHS = [
    [[3, 4, 13, 12], [2, 7, 1, 10], [9, 0, 14, 5]],
    [[1, 6, 14, 0], [8, 5, 3, 11], [2, 13, 4, 7]],
]


@st.composite
def orders(draw: st.DrawFn) -> tuple[BalancedOrder, np.ndarray, np.ndarray, int]:
    half = draw(st.integers(1, 4))
    counts = draw(st.tuples(st.integers(half, 40), st.integers(half, 40)))
    labels = np.repeat([1, 0], counts)
    lengths = np.array(draw(st.lists(st.integers(1, 64), min_size=sum(counts), max_size=sum(counts))))
    return BalancedOrder(lengths, labels, BUCKETS, 2 * half, draw(st.integers(0, 9))), lengths, labels, half


@given(orders(), st.integers(0, 5))
@settings(deadline=None)
def test_every_batch_is_balanced_and_fits(
    made: tuple[BalancedOrder, np.ndarray, np.ndarray, int], number: int
) -> None:
    order, lengths, labels, half = made
    plan = order.epoch(number)
    assert plan.examples.shape == (order.batches_per_epoch, 2 * half)
    assert (labels[plan.examples].sum(axis=1) == half).all()
    assert (lengths[plan.examples].max(axis=1) <= plan.buckets).all()
    assert set(plan.buckets) <= set(BUCKETS)


@given(orders(), st.integers(0, 5))
@settings(deadline=None)
def test_the_rarer_label_is_seen_once_each_epoch(
    made: tuple[BalancedOrder, np.ndarray, np.ndarray, int], number: int
) -> None:
    order, _, labels, half = made
    rare = min((1, 0), key=lambda label: int((labels == label).sum()))
    seen = Counter(int(i) for i in order.epoch(number).examples.ravel() if labels[i] == rare)
    assert set(seen) == set(np.flatnonzero(labels == rare))
    assert max(seen.values()) <= 2
    assert sum(count - 1 for count in seen.values()) < half


@given(orders())
@settings(deadline=None)
def test_the_frequent_label_comes_again_only_when_exhausted(
    made: tuple[BalancedOrder, np.ndarray, np.ndarray, int],
) -> None:
    order, _, labels, _ = made
    frequent = max((0, 1), key=lambda label: int((labels == label).sum()))
    seen = Counter({int(position): 0 for position in np.flatnonzero(labels == frequent)})
    for number in range(4):
        seen.update(int(i) for i in order.epoch(number).examples.ravel() if labels[i] == frequent)
        assert max(seen.values()) - min(seen.values()) <= 1


@given(orders(), st.integers(0, 3))
@settings(deadline=None)
def test_epochs_are_functions_of_the_seed(
    made: tuple[BalancedOrder, np.ndarray, np.ndarray, int], number: int
) -> None:
    order = made[0]
    np.testing.assert_array_equal(order.epoch(number).examples, order.epoch(number).examples)
    np.testing.assert_array_equal(order.epoch(number).buckets, order.epoch(number).buckets)


def test_seeds_and_epochs_differ() -> None:
    lengths, labels = np.full(60, 8), np.repeat([1, 0], 30)
    made = [
        BalancedOrder(lengths, labels, (16,), 4, seed).epoch(number).examples.tolist()
        for seed in (0, 1)
        for number in (0, 1)
    ]
    assert len({str(examples) for examples in made}) == 4


def test_examples_without_partners_move_to_a_longer_bucket() -> None:
    labels = np.repeat([1, 0], 8)
    lengths = np.where(labels == 1, 8, 40)  # every short prompt is relevant
    plan = BalancedOrder(lengths, labels, BUCKETS, 4, 0).epoch(0)
    assert plan.buckets.tolist() == [64] * 4
    assert sorted(plan.examples.ravel()) == list(range(16))


def test_permutation_is_pinned() -> None:
    """Guards resumed runs against a change of the order, in numpy or here."""
    assert permutation(8, 1, 2, 3).tolist() == PINNED
    assert sorted(permutation(100, 0)) == list(range(100))


def test_epochs_are_pinned() -> None:
    """As above; the second epoch begins in the first pass through the frequent label and ends in the next."""
    order = BalancedOrder(np.full(15, 8), np.repeat([1, 0], [6, 9]), (16,), 4, 7)
    assert [order.epoch(number).examples.tolist() for number in (0, 1)] == PINNED_EPOCHS


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50))
@settings(deadline=None)
def test_chosen_buckets_hold_everything(lengths: list[int]) -> None:
    buckets = choose_buckets(np.array(lengths), 300)
    assert 1 <= len(buckets) <= 3
    assert list(buckets) == sorted(set(buckets))
    assert max(lengths) <= buckets[-1] <= 300
    assert all(bucket % 16 == 0 or bucket == 300 for bucket in buckets)


def test_buckets_follow_the_quantiles() -> None:
    assert choose_buckets(np.array([20] * 8 + [40, 90]), 224) == (32, 48, 96)
    assert choose_buckets(np.array([90]), 90) == (90,)
    assert choose_buckets(np.array([127] * 8 + [134, 152]), 224) == (128, 160)
    with pytest.raises(ValueError, match=r"data.max_length=50: an example has 90 tokens"):
        choose_buckets(np.array([90]), 50)
    with pytest.raises(ValueError, match=r"no examples"):
        choose_buckets(np.array([], np.int32), 50)


@pytest.mark.parametrize(
    ("labels", "buckets", "batch_size", "expected"),
    [
        ([1, 1, 0, 0, 0], (16,), 6, "2 relevant and 3 irrelevant ones; give a smaller batch, or a lower"),
        ([1, 1, 0], (16,), 4, "2 relevant and 1 irrelevant ones; give a smaller batch, or more"),
        ([1, 0], (16,), 3, "train.batch_size=3: give an even number"),
        ([1, 0], (4, 8), 2, "a prompt has 9 tokens; the last bucket must hold it"),
        ([1, 0], (32, 16), 2, "list positive lengths in ascending order"),
        ([1, 0], (), 2, "list positive lengths in ascending order"),
    ],
)
def test_impossible_orders_are_refused(
    labels: list[int], buckets: tuple[int, ...], batch_size: int, expected: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        BalancedOrder(np.full(len(labels), 9), np.array(labels), buckets, batch_size, 0)
