"""What a run says it will read is what the order of its batches reads."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.batch_order import BalancedOrder
from prorank_jax.run_facts import DataFacts, reading
from tests.cpu.test_list_order import make_index, make_order


@pytest.mark.parametrize(
    ("stage", "steps", "batch_size", "data", "said"),
    [
        (2, 1360, 4, DataFacts(502939, 9000000, 532761, 0), "1360 steps x 4 lists read 1.1% of them"),
        (2, 1, 8, DataFacts(502939, 9000000, 532761, 0), "1 steps x 8 lists read 0.0016% of them"),
        (2, 400, 4, DataFacts(1600, 9000, 1700, 0), "400 steps x 4 lists read 100% of them"),
        (2, 400, 4, DataFacts(650, 9000, 700, 0), "400 steps x 4 lists read each of them 2.5 times"),
        (
            1,
            64,
            8,
            DataFacts(650, 900, 700, 0),
            "64 steps x 8 prompts read 37% of 700 relevant ones and each of 200 irrelevant ones 1.3 times",
        ),
    ],
)
def test_the_line_on_what_is_read(stage, steps, batch_size, data, said):
    assert reading(stage, steps, batch_size, data) == f"data: {data.queries} queries; {said}"


@pytest.mark.parametrize(("lists", "queries", "is_told"), [(4, 4, False), (5, 4, True), (2, 1, True)])
def test_lists_that_a_batch_must_hold_twice_are_told(lists, queries, is_told):
    """Of the queries that are trained on: those whose documents are all alike make no list."""
    data = DataFacts(queries, 2 * queries, queries, 0)
    told = f". Each batch holds some list more than once; train.batch_size {queries} or less does not"
    assert reading(2, 9, lists, data).endswith(told) is is_told
    assert told not in reading(1, 9, 2 * lists, data)


def _share(line: str, named: str) -> tuple[float, float]:
    """What a line says was read of these, as a share, and how far off rounding may take it."""
    percent = re.search(rf"([\d.]+)% of {named}", line)
    if percent:
        return float(percent[1]) / 100, 0.006
    times = re.search(rf"each of {named} ([\d.]+) times", line)
    assert times, line
    return float(times[1]), 0.051


@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 4), st.integers(1, 30))
@settings(deadline=None)
def test_a_warmup_reads_as_much_of_each_label_as_it_says(relevant, irrelevant, half, steps):
    labels = np.repeat([1, 0], (relevant, irrelevant))
    order = BalancedOrder(np.full(len(labels), 9), labels, (16,), 2 * half, seed=0)
    epochs = [order.epoch(number).examples for number in range(-(-steps // order.batches_per_epoch))]
    read = np.concatenate(epochs)[:steps]
    line = reading(1, steps, 2 * half, DataFacts(7, len(labels), relevant, 0))
    for label, there, kind in ((1, relevant, "relevant"), (0, irrelevant, "irrelevant")):
        said, rounding = _share(line, f"{there} {kind} ones")
        assert said == pytest.approx(int((labels[read] == label).sum()) / there, abs=rounding)


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8))
@settings(deadline=None)
def test_no_list_is_read_again_before_the_whole_is_read(lists, batches, steps):
    queries = lists * batches
    order = make_order(make_index([[1, 0]] * queries), lists=lists)
    read = np.concatenate([order.epoch(0), order.epoch(1)])[:steps]
    said, rounding = _share(reading(2, steps, lists, DataFacts(queries, 2 * queries, queries, 0)), "them")
    if steps <= batches:
        assert said == pytest.approx(len(np.unique(read)) / queries, abs=rounding)
    else:
        assert said > 1 - rounding
