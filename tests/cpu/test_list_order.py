"""Lists of graded documents: what they hold, and that they depend on the seed and the step alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.list_order import ListIndex, ListOrder, choose_members

PINNED_EPOCHS = [[[1, 0], [0, 2], [6, 4], [3, 5]], [[2, 3], [4, 3], [0, 1], [5, 6]]]
PINNED_MEMBERS = [
    [[7, 8, 9, 0, 14], [0, 2, 1, 14, 7], [14, 15, 13, 7, 0]],
    [[7, 10, 9, 13, 0], [0, 3, 1, 13, 7], [13, 15, 14, 7, 0]],
]

graded = st.lists(st.integers(-1, 3), min_size=1, max_size=20)


def make_index(grades: list[list[int]], scores: list[list[float]] | None = None, **options) -> ListIndex:
    """One query for each inner list; prompt j of query i has 20 + 3 i + j tokens, 10 + i of them shared.

    `lengths` in the options are others.
    """
    queries = np.concatenate([np.full(len(row), i) for i, row in enumerate(grades)])
    places = np.concatenate([np.arange(len(row)) for row in grades])
    flat_scores = np.full(len(queries), np.nan) if scores is None else np.concatenate(scores)
    options.setdefault("documents", np.arange(len(queries)))
    options.setdefault("max_length", 1000)
    options.setdefault("lengths", 20 + 3 * queries + places)
    return ListIndex(
        "test",
        lengths=np.asarray(options.pop("lengths"), np.int32),
        starts=(10 + queries).astype(np.int32),
        queries=queries.astype(np.int32),
        grades=np.concatenate(grades).astype(np.int32),
        scores=flat_scores.astype(np.float32),
        **options,
    )


def make_order(
    index: ListIndex, lists: int = 2, size: int = 4, borrowed: int = 0, seed: int = 0
) -> ListOrder:
    return ListOrder(
        index, list_size=size, lists_per_batch=lists, borrowed=borrowed, relevant_grade=1, seed=seed
    )


@settings(max_examples=80, deadline=None)
@given(graded, st.integers(1, 12), st.integers(0, 3), st.integers(0, 5))
def test_half_of_the_members_are_relevant_and_spread_over_the_grades(grades, size, relevant_grade, seed):
    grades = np.array(grades)
    taken = choose_members(grades, size, relevant_grade, seed)
    assert len(taken) == min(size, len(grades)) == len(set(taken.tolist()))
    assert grades[taken[0]] == grades.max()
    relevant = grades >= relevant_grade
    chosen = int(relevant[taken].sum())
    others = len(taken) - chosen
    assert chosen - others in (0, 1) or chosen == relevant.sum() or others == (~relevant).sum()
    for side in (relevant, ~relevant):
        counts = {grade: int((grades[taken] == grade).sum()) for grade in set(grades[side].tolist())}
        for grade, count in counts.items():
            there = int((grades == grade).sum())
            # A grade has fewer than another only when it ran out, or the last round ended before it.
            assert all(count >= other - 1 or count == there for other in counts.values())
    np.testing.assert_array_equal(taken, choose_members(grades, size, relevant_grade, seed))


def test_every_query_is_seen_once_in_an_epoch_and_the_last_batch_is_filled():
    order = make_order(make_index([[1, 0]] * 7), lists=3)
    assert order.batches_per_epoch == 3
    seen = np.bincount(order.epoch(0).ravel(), minlength=7)
    assert sorted(seen.tolist()) == [1, 1, 1, 1, 1, 2, 2]
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    np.testing.assert_array_equal(order.epoch(1), order.epoch(1))


def test_a_batch_larger_than_the_data_repeats_queries():
    order = make_order(make_index([[1, 0]] * 2), lists=5)
    assert np.bincount(order.epoch(0).ravel()).min() >= 2


def test_short_lists_are_marked_and_hold_their_own_documents_only():
    index = make_index([[2, 0], [1, 1, 0, 0, 0]])
    order = make_order(index, size=4)
    members = order.members(np.array([0, 1]), epoch=0)
    assert (members[0] >= 0).tolist() == [True, True, False, False]
    assert set(members[0, :2]) == {0, 1}
    assert set(members[1]) <= {2, 3, 4, 5, 6}
    assert len({tuple(order.members(np.array([1]), epoch)[0]) for epoch in range(8)}) > 3


def test_lists_without_what_the_losses_learn_from_are_left_out(caplog):
    nan = np.nan
    grades, scores = [[1, 0], [1, 1], [1, 0]], [[nan, nan], [0.5, 0.25], [0.5, 0.25]]
    kept = {
        signals: [group.tolist() for group in make_index(grades, scores, learns_from=signals).members]
        for signals in (("grades",), ("teacher scores",), ("grades", "teacher scores"))
    }
    assert list(kept.values()) == [[[0, 1], [4, 5]], [[2, 3], [4, 5]], [[0, 1], [2, 3], [4, 5]]]
    assert "1 queries whose documents' teacher scores are all alike are left out" in caplog.text
    with pytest.raises(ValueError, match=r"all 1 queries of test have no two documents of different teacher"):
        make_index([[1, 0]], [[0.5, nan]], learns_from=("teacher scores",))


def test_a_document_without_a_teachers_score_takes_no_place_where_only_the_teacher_teaches():
    nan = np.nan
    grades, scores = [[1, 0, 0, 1, 0], [1, 0]], [[nan, 0.5, nan, 0.25, 0.75], [nan, 0.5]]
    index = make_index(grades, scores, learns_from=("teacher scores",))
    assert [group.tolist() for group in index.members] == [[1, 3, 4]]
    index = make_index(grades, scores, learns_from=("grades", "teacher scores"))
    assert [group.tolist() for group in index.members] == [[0, 1, 2, 3, 4], [5, 6]]


def test_queries_that_teach_nothing_are_left_out_and_counted(caplog):
    nan = np.nan
    with caplog.at_level(logging.WARNING):
        index = make_index([[1, 1], [0], [1, 0], [2, 2]], [[nan, nan], [0.5], [nan, nan], [0.25, 0.5]])
    assert [group.tolist() for group in index.members] == [[3, 4], [5, 6]]
    assert "2 queries whose documents are all alike are left out" in caplog.text
    with pytest.raises(ValueError, match=r"all 2 queries of test have documents of one grade only"):
        make_index([[1, 1], [0, 0]])


@pytest.mark.parametrize(("borrowed", "max_length"), [(0, 1000), (2, 1000), (2, 139)])
def test_the_static_lengths_hold_every_list(borrowed, max_length):
    index = make_index([[1, 0, 0]] * 40, borrowing=borrowed > 0, max_length=max_length)
    assert index.prefix_width % 8 == 0
    order = make_order(index, lists=4, size=3, borrowed=borrowed)
    for queries in order.epoch(0):
        members = order.members(queries, 0)
        first = members[:, :1]
        whole = index.starts[first] + index.lengths[members] - index.starts[members]
        rests = np.where(members >= 0, np.minimum(whole, max_length) - index.shared(first), 0)
        assert order.bucket(rests) >= rests.max()


def test_the_order_of_a_seed_stays_what_it_is():
    """A run that is resumed after a change would read other lists, and no run could be made again."""
    queries = make_order(make_index([[1, 0]] * 7), lists=2, seed=5)
    assert [queries.epoch(number).tolist() for number in (0, 1)] == PINNED_EPOCHS
    index = make_index([[2, 1, 0, 0], [1, 0, 0], [3, 0, 2, 0], [0, 1], [1, 1, 0, 0, 0]], borrowing=True)
    order = make_order(index, lists=3, size=3, borrowed=2, seed=5)
    assert [order.members(np.array([2, 0, 4]), epoch).tolist() for epoch in (0, 1)] == PINNED_MEMBERS


def test_another_seed_draws_other_batches_and_other_members():
    index = make_index([[1, 0, 0, 0, 0, 0]] * 12)
    queries = np.arange(12)
    ours, others = (make_order(index, lists=3, size=3, seed=seed) for seed in (0, 1))
    assert not np.array_equal(ours.epoch(0), others.epoch(0))
    assert not np.array_equal(ours.members(queries, 0), others.members(queries, 0))


def test_a_batch_mixes_lengths_only_where_one_is_left_over():
    """Without it nothing but padding would grow. The longest prompt of a list is what counts."""
    rng = np.random.default_rng(0)
    lists, per_list = 60, 3
    longest = rng.choice([60, 110, 300], lists)
    lengths = np.stack([longest, *rng.integers(40, 60, (per_list - 1, lists))], axis=1)
    index = make_index([[1, 0, 0]] * lists, lengths=rng.permuted(lengths, axis=1).ravel())
    assert len(index.buckets) == 3
    longest = longest - np.minimum(10 + np.arange(lists), index.prefix_width)
    fitting = np.array([min(b for b in index.buckets if b >= length) for length in longest])
    for number in range(4):
        order = make_order(index, lists=4, seed=number)
        mixed = sum(len(set(fitting[queries].tolist())) > 1 for queries in order.epoch(number))
        assert mixed <= len(index.buckets) - 1
