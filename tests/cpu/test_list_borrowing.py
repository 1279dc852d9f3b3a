"""Documents of a batch's other queries as further negatives: which ones, and none that would mislead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cpu.test_list_order import make_index, make_order


def lent(
    own: list[list[int]], row: int, queries: list[int], documents: list[int], known: set[int]
) -> list[int]:
    """What the lists of other queries can lend to list `row`: the first of each, then the second of each."""
    found: list[int] = []
    for place in range(len(own[0])):
        for other, members in enumerate(own):
            if queries[other] == queries[row] or members[place] < 0:
                continue
            document = documents[members[place]]
            if document not in known and document not in [documents[position] for position in found]:
                found.append(members[place])
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_borrowed_is_among_the_best_that_the_other_lists_hold(data):
    grades = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=7))
    grades = [[*row, 4] for row in grades]  # no list whose documents are all alike
    count = sum(map(len, grades))
    documents = data.draw(st.lists(st.integers(0, 2 * count), min_size=count, max_size=count))
    size, borrowed = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    queries = data.draw(st.lists(st.integers(0, len(grades) - 1), min_size=2, max_size=7))
    index = make_index(grades, documents=np.array(documents), borrowing=True)
    order = make_order(index, size=size, borrowed=borrowed, seed=data.draw(st.integers(0, 3)))
    members = order.members(np.array(queries), data.draw(st.integers(0, 5)))
    for row, query in enumerate(queries):
        known = {documents[position] for position in index.members[query]}
        pool = lent(members[:, :size].tolist(), row, queries, documents, known)
        others = sum(other != query for other in queries)
        best = pool[: max(borrowed, others)]
        got = [position for position in members[row, size:].tolist() if position >= 0]
        assert len(got) == len(set(got)) == min(borrowed, len(best))
        assert set(got) <= set(best)


@pytest.mark.parametrize(("borrowed", "drawn_from"), [(2, 5), (8, 8)])
def test_every_one_of_the_best_comes_up_in_some_epoch(borrowed, drawn_from):
    """With fewer places than other lists too: else some lists would never lend a document."""
    index = make_index([[3, 0, 2, 1]] * 6, borrowing=True)  # a grade each, so the order in a list is fixed
    order = make_order(index, size=4, borrowed=borrowed)
    own = order.members(np.arange(6), 0)[:, :4]
    assert np.array_equal(own, order.members(np.arange(6), 1)[:, :4])
    for row in range(6):
        best = np.delete(own, row, axis=0).T.ravel()[:drawn_from]
        got = [order.members(np.arange(6), epoch)[row, 4:] for epoch in range(30)]
        assert set(np.concatenate(got).tolist()) == set(best.tolist())
        assert len({tuple(taken) for taken in got}) > 5


def test_documents_are_borrowed_from_other_queries_of_the_batch():
    order = make_order(make_index([[3, 0, 0], [2, 0], [1, 0, 0]], borrowing=True), size=2, borrowed=3)
    members = order.members(np.array([0, 2, 1]), epoch=0)
    borrowed = members[:, 2:]
    assert set(borrowed[0]) <= {3, 4, 5, 6, 7}
    assert (np.isin([3, 5], borrowed[0])).all()  # the best of each other list come first
    lonely = order.members(np.array([0]), epoch=0)
    assert (lonely[0, 2:] == -1).all()
    twice = order.members(np.array([0, 0]), epoch=0)  # the same query again lends nothing
    assert (twice[:, 2:] == -1).all()


def test_a_document_of_several_lists_is_borrowed_once():
    """Copies would keep other documents out, and count several times in the loss."""
    documents = np.array([0, 1, 0, 2, 0, 3, 0, 4, 5, 6])
    index = make_index([[1, 0]] * 5, documents=documents, borrowing=True)
    for epoch in range(5):
        members = make_order(index, lists=5, size=2, borrowed=4).members(np.arange(5), epoch)
        for row in members[:, 2:]:
            assert len(set(documents[row].tolist())) == 4
        assert 0 in documents[members[4, 2:]]


def test_nothing_is_borrowed_that_is_a_candidate_of_the_query_itself():
    """Example 3 is the document of example 0, and relevant to both queries."""
    index = make_index([[3, 0, 0], [2, 0]], documents=np.array([7, 1, 2, 7, 4]), borrowing=True)
    members = make_order(index, size=2, borrowed=3).members(np.array([0, 1]), epoch=0)
    assert set(members[0, 2:]) == {4, -1}
    assert 0 not in members[1, 2:]


def test_a_relevant_document_that_was_not_drawn_is_not_borrowed():
    index = make_index([[3, 3, 3, 0], [2, 0]], documents=np.array([7, 8, 9, 1, 7, 4]), borrowing=True)
    order = make_order(index, size=2, borrowed=3)
    for epoch in range(8):
        assert 4 not in order.members(np.array([0, 1]), epoch)[0, 2:]  # it has document 7
