"""Rows of prompts hold every batch, are the same for all processes, and are few in length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.accumulation import split_into_parts
from prorank_jax.batch_order import EpochPlan
from prorank_jax.data import train_iterator
from prorank_jax.prompt_rows import RowMembers, members_of_rows, plan_rows, row_lengths
from tests.cpu.data_fixtures import MemoryExamples

MANY = MemoryExamples([9 + (7 * i) % 40 for i in range(400)], [int(i % 3 == 0) for i in range(400)])


@pytest.mark.parametrize(
    ("batch_size", "parts", "ways", "prompts"),
    [
        (8, 1, 1, 8),
        (8, 2, 1, 4),
        (256, 1, 8, 32),
        (256, 2, 2, 32),
        (96, 1, 1, 32),
        (84, 1, 1, 28),
        (62, 1, 1, 31),
    ],
)
def test_a_row_has_what_a_device_computes_at_once(batch_size, parts, ways, prompts):
    assert members_of_rows(batch_size, parts, ways, 5, longest=512) == RowMembers(prompts, parts, 5)


@pytest.mark.parametrize(("longest", "prompts"), [(1024, 16), (8192, 2), (3000, 4), (16_385, 0)])
def test_a_row_of_long_prompts_has_few(longest, prompts):
    found = members_of_rows(64, 1, 1, 5, longest)
    assert (found.prompts if found else 0) == prompts


@pytest.mark.parametrize(("batch_size", "parts", "ways"), [(8, 1, 8), (8, 4, 2), (74, 1, 2)])
def test_a_prompt_alone_is_no_row(batch_size, parts, ways):
    assert members_of_rows(batch_size, parts, ways, 5, longest=512) is None


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_the_fullest_row_is_found_among_the_rows_of_every_part(prompts, parts, rows, data):
    count = prompts * parts * rows
    lengths = np.array(data.draw(st.lists(st.integers(6, 60), min_size=count, max_size=count)))
    of_parts = np.asarray(split_into_parts(lengths, parts))  # as a step makes them
    expected = max(
        5 + sum(part[start : start + prompts] - 5)
        for part in of_parts
        for start in range(0, len(part), prompts)
    )
    assert RowMembers(prompts, parts, shared=5).tokens(lengths) == expected


def test_rows_are_of_one_length_or_two_and_of_none_where_hardly_anything_is_padded():
    assert row_lengths([300] * 9 + [320], 400) == (320,)
    assert row_lengths([200] * 9 + [320], 400) == (208, 320)
    assert row_lengths([200] * 9 + [390], 400) == (208,)
    assert row_lengths([360] * 10, 400) == (368,)
    assert row_lengths([370] * 10, 400) == ()


def test_an_epoch_of_few_batches_is_not_drawn_again_and_again():
    class Order:
        drawn = 0

        def epoch(self, _):
            self.drawn += 1
            return EpochPlan(np.arange(4)[None], np.array([20]))

    order = Order()
    plan = plan_rows(order, np.array([9, 9, 9, 9]), RowMembers(4, 1, 2))
    assert plan.lengths == {20: (32,)}
    assert order.drawn <= 8


def batches(count, **changes):
    given = {"batch_size": 16, "seed": 3, "buckets": (32, 48), "members": RowMembers(4, 2, 8)}
    iterator = train_iterator(MANY, **(given | changes))
    return [next(iterator) for _ in range(count)]


def test_batches_are_those_without_rows_and_every_row_has_room():
    in_rows, padded = batches(80), batches(80, members=None)
    lengths = {}
    for batch, other in zip(in_rows, padded, strict=True):
        np.testing.assert_array_equal(batch.tokens, other.tokens)
        np.testing.assert_array_equal(batch.examples, other.examples)
        assert other.rows is None
        if batch.rows is not None:
            assert (batch.rows.prompts, batch.rows.shared) == (4, 8)
            assert RowMembers(4, 2, 8).tokens(batch.lengths) <= batch.rows.tokens
            lengths.setdefault(batch.tokens.shape[1], set()).add(batch.rows.tokens)
    assert sum(batch.rows is not None for batch in in_rows) > 40
    assert all(len(of_width) <= 2 for of_width in lengths.values())


def test_processes_agree_on_the_rows_and_a_run_that_goes_on_has_them_too():
    whole = batches(12)
    halves = [batches(12, rows=np.arange(8)), batches(12, rows=np.arange(8, 16))]
    assert all([batch.rows for batch in half] == [batch.rows for batch in whole] for half in halves)
    assert [batch.rows for batch in batches(5, start_step=7)] == [batch.rows for batch in whole[7:]]
