"""Batches of lists put prompts together as they were rendered, once for what they share."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.config import RankingOptions
from prorank_jax.lists import index_lists, list_iterator, packed_tokens
from prorank_jax.types import Candidate, Document, RankingGroup
from tests.cpu.data_fixtures import WordRenderer, listed


def group(number: int, grades: list[int], scores: list[float] | None = None) -> RankingGroup:
    words = " ".join(f"word{number}" for _ in range(2 + number))
    scores = scores or [None] * len(grades)
    candidates = tuple(
        Candidate(Document(f"d{number}-{i}", f"text{number} " + "more " * i), grade, score)
        for i, (grade, score) in enumerate(zip(grades, scores, strict=True))
    )
    return RankingGroup(f"q{number}", f"what about {words}", candidates)


GROUPS = [group(i, [2, 1, 0, 0, 0][: 3 + i % 3], [0.5, 0.25, -1.0, 0.0, 3.0][: 3 + i % 3]) for i in range(5)]


def batches(examples, options: RankingOptions, lists: int = 2, max_length: int = 96, **place):
    index = index_lists(examples, options, max_length)
    return list_iterator(examples, index, options, lists_per_batch=lists, relevant_grade=1, seed=3, **place)


def prompt(batch, row: int, place: int) -> list[int]:
    head = batch.prefix[row, : batch.prefix_lengths[row]]
    return [*head.tolist(), *batch.tokens[row, place, : batch.lengths[row, place]].tolist()]


def test_prefix_and_rest_are_the_rendered_prompt():
    examples, seen = listed(GROUPS), set()
    iterator = batches(examples, RankingOptions(list_size=4))
    for _ in range(6):
        batch = next(iterator)
        assert batch.mask.sum() == (batch.examples >= 0).sum()
        for row, place in np.argwhere(batch.mask):
            example = examples[batch.examples[row, place]]
            assert prompt(batch, row, place) == example.tokens.tolist()
            assert batch.grades[row, place] == example.grade
            assert batch.teacher[row, place] == np.float32(example.score)
            seen.add(example.document_id)
        shared = batch.prefix_lengths
        assert (shared > 4).all()  # head and query, not only the first token
    assert len(seen) > 12
    assert not np.isfinite(batch.teacher[~batch.mask]).any()


def test_borrowed_documents_are_rendered_with_the_borrowing_query():
    examples = listed(GROUPS)
    renderer = WordRenderer()
    texts = {c.document.id: c.document.full_text for g in GROUPS for c in g.candidates}
    queries = {g.query_id: g.query for g in GROUPS}
    iterator = batches(examples, RankingOptions(list_size=3, in_batch_negatives=3), lists=3)
    count = 0
    for _ in range(4):
        batch = next(iterator)
        assert not (batch.mask & batch.in_batch).any()
        for row, place in np.argwhere(batch.in_batch):
            own = examples[batch.examples[row, 0]]
            other = examples[batch.examples[row, place]]
            assert own.query_id != other.query_id
            assert prompt(batch, row, place) == renderer.render(
                queries[own.query_id], texts[other.document_id]
            )
            count += 1
    assert count > 10


def test_a_borrowed_document_is_cut_as_it_would_be_beside_its_own_query():
    """Documents fill the prompts, so beside a longer query than their own there is less room for them."""
    queries = ["what", "what about the other long question", "what about nothing"]
    groups = [
        RankingGroup(
            f"q{i}",
            query,
            tuple(
                Candidate(Document(f"d{i}-{j}", " ".join(f"{i}{j}{w}" for w in range(20))), 1 - j)
                for j in (0, 1)
            ),
        )
        for i, query in enumerate(queries)
    ]
    renderer = WordRenderer(max_length=20)
    examples = listed(groups, renderer)
    texts = {c.document.id: c.document.full_text for g in groups for c in g.candidates}
    batch = next(batches(examples, RankingOptions(list_size=2, in_batch_negatives=2), lists=3, max_length=20))
    assert batch.in_batch.sum() == 6
    for row, place in np.argwhere(batch.in_batch):
        query = groups[examples.queries[batch.examples[row, 0]]].query
        text = texts[examples[batch.examples[row, place]].document_id]
        expected = renderer.render(query, text)
        got = prompt(batch, row, place)
        # Beside a shorter query than its own, it is not read again: what its prompt had is all there is.
        assert got[-2:] == expected[-2:]
        assert got[:-2] == expected[: len(got) - 2]
        assert len(got) <= renderer.max_length
    lengths = {len(prompt(batch, *at)) for at in np.argwhere(batch.in_batch)}
    assert max(lengths) == renderer.max_length


def test_there_is_a_place_for_an_answer_where_the_format_is_held():
    examples, sizes = listed(GROUPS), {"list_size": 4, "in_batch_negatives": 2}
    plain = batches(examples, RankingOptions(**sizes), lists=3)
    held = batches(examples, RankingOptions(**sizes, format_coefficient=0.1), lists=3)
    for _ in range(6):
        batch, wider = next(plain), next(held)
        assert (wider.lengths < wider.tokens.shape[-1]).all()
        for row, place in np.argwhere(wider.mask):
            example = examples[wider.examples[row, place]]
            assert prompt(wider, row, place) == example.tokens.tolist()
        assert batch.mask.sum() == wider.mask.sum()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"losses": "listwise=1"}, [0, 2]),
        ({"losses": "margin_mse=1"}, [1, 2]),
        ({"losses": "margin_mse=1,pairwise=0.5"}, [0, 1, 2]),
        ({"losses": "margin_mse=1,pairwise=0"}, [1, 2]),
        ({"losses": "margin_mse=0,pairwise=1"}, [0, 2]),
        ({"losses": "pointwise=1"}, [0, 2]),
        ({"losses": "pointwise=1", "soft_labels": "teacher_logit"}, [0, 1, 2]),
    ],
)
def test_the_losses_decide_which_lists_can_teach(options, kept):
    groups = [group(0, [1, 0]), group(1, [1, 1], [0.5, 0.25]), group(2, [1, 0], [0.5, 0.25])]
    examples = listed(groups)
    index = index_lists(examples, RankingOptions(**options), max_length=96)
    assert [int(examples.queries[members[0]]) for members in index.members] == kept


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.lists(st.integers(1, 90), min_size=k, max_size=k), min_size=1, max_size=5)
    ),
    st.integers(0, 20),
)
def test_packed_rows_hold_every_list_and_leave_out_an_eighth_or_more(lengths, spare):
    held = np.array(lengths)
    width = int(held.max()) + spare
    tokens, padded = packed_tokens(held, width), held.shape[1] * width
    longest = held.sum(axis=1).max()
    if tokens is None:
        assert longest > padded - -(-padded // 8)
    else:
        assert longest <= tokens < padded
        assert tokens % -(-padded // 8) == 0


@pytest.mark.parametrize("held_format", [0.0, 0.1])
def test_lists_are_packed_unless_told_otherwise(held_format):
    examples, sizes = listed(GROUPS), {"list_size": 5, "format_coefficient": held_format}
    packed = batches(examples, RankingOptions(**sizes), lists=3)
    padded = batches(examples, RankingOptions(**sizes, packing=False), lists=3)
    rows = set()
    for _ in range(6):
        one, other = next(packed), next(padded)
        assert other.row_tokens is None
        jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(one, row_tokens=None), other)
        if one.row_tokens is not None:
            rows.add(one.row_tokens)
            assert (one.lengths + (held_format > 0)).sum(axis=1).max() <= one.row_tokens
    assert rows


def test_processes_get_parts_of_the_same_batches():
    examples, options = listed(GROUPS), RankingOptions(list_size=4, in_batch_negatives=1)
    whole = batches(examples, options, lists=4)
    parts = [batches(examples, options, lists=4, rows=rows) for rows in np.split(np.arange(4), 2)]
    for _ in range(5):
        batch, (first, second) = next(whole), [next(part) for part in parts]
        assert first.row_tokens == second.row_tokens == batch.row_tokens  # one program for all
        for name in ("prefix", "tokens", "lengths", "grades", "teacher", "mask", "in_batch", "examples"):
            joined = np.concatenate([getattr(first, name), getattr(second, name)])
            np.testing.assert_array_equal(joined, getattr(batch, name))


def test_the_iterator_goes_on_from_its_state():
    examples, options = listed(GROUPS), RankingOptions(list_size=4)
    iterator = batches(examples, options)
    for _ in range(4):
        next(iterator)
    state, following = iterator.get_state(), [next(iterator) for _ in range(3)]
    again = batches(examples, options)
    again.set_state(state)
    for batch in following:
        np.testing.assert_array_equal(next(again).tokens, batch.tokens)


def test_documents_that_start_alike_do_not_lengthen_the_start():
    same = tuple(Candidate(Document(f"d{i}", f"same words here {i}"), i % 2) for i in range(4))
    examples = listed([RankingGroup("q", "short", same)])
    assert (examples.starts == len(WordRenderer().render("short", "")) - 2).all()


def test_a_renderer_whose_start_depends_on_the_document_shares_only_what_is_equal():
    class Leading(WordRenderer):
        def render(self, query: str, document: str) -> list[int]:
            return [len(document) % 3, *super().render(query, document)]

    examples = listed([group(0, [1, 0, 0])], Leading())
    assert (examples.starts == 0).all()
