"""The sample of a probe, which stays what it was, and the companions that show the order within queries."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.held_out import HeldOut, choose_held_out
from tests.cpu.data_fixtures import MemoryExamples

LENGTHS, LABELS = [5 + 3 * (i % 9) for i in range(50)], [int(i % 5 < 2) for i in range(50)]
MEMORY = MemoryExamples(LENGTHS, LABELS, [i // 10 for i in range(50)])
ASKED = {"count": 20, "batch_size": 8, "buckets": (16, 32), "within_queries": False}


def choose(examples: MemoryExamples, **changes) -> HeldOut:
    return choose_held_out(examples, **(ASKED | changes))


def positions(batches) -> list[int]:
    return [int(p) for batch in batches for p in batch.examples if p >= 0]


def test_the_sample_is_balanced_fixed_and_filled_up() -> None:
    held_out = choose(MEMORY)
    batches = held_out.batches
    assert [batch.tokens.shape[0] for batch in batches] == [8, 8, 8]
    assert held_out.prompts == len(set(positions(batches))) == 20
    assert (batches[-1].examples[-4:] == -1).all()
    assert (batches[-1].lengths[4:] == 1).all()
    assert np.concatenate([batch.labels for batch in batches])[:20].sum() == 10
    assert jax.tree.all(jax.tree.map(np.array_equal, batches, choose(MEMORY).batches))
    assert positions(choose(MEMORY, seed=1).batches) != positions(batches)


def test_the_sample_is_the_one_that_earlier_versions_drew() -> None:
    """A run that goes on compares its probes with those before."""
    assert [batch.examples.tolist() for batch in choose(MEMORY).batches] == [
        [0, 45, 36, 1, 46, 19, 20, 11],
        [29, 2, 21, 39, 12, 13, 41, 32],
        [42, 33, 25, 8, -1, -1, -1, -1],
    ]


def test_the_sample_is_cut_to_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    assert choose(MEMORY, count=128, buckets=(32,)).prompts == 40
    assert "probe.examples=128: memory has enough for 40 only" in caplog.text


def test_impossible_probes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"memory has 3 relevant and 0 irrelevant examples"):
        choose(MemoryExamples([4] * 3, [1] * 3), count=2)
    with pytest.raises(ValueError, match=r"a held-out prompt has 29 tokens"):
        choose(MEMORY, count=40, buckets=(16,))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=2, max_size=60).filter(
        lambda pairs: {label for _, label in pairs} == {0, 1}
    ),
    st.integers(1, 12),
    st.integers(0, 3),
)
def test_companions_complete_the_queries_that_lack_an_irrelevant_prompt(pairs, half, seed) -> None:
    queries, labels = (np.array(column) for column in zip(*pairs, strict=True))
    examples = MemoryExamples([5 + i % 20 for i in range(len(pairs))], labels, queries)
    alone = choose(examples, count=2 * half, seed=seed)
    both = choose(examples, count=2 * half, seed=seed, within_queries=True)
    assert (alone.companions, alone.queries) == ([], None)
    np.testing.assert_array_equal(both.queries, queries)
    assert jax.tree.all(jax.tree.map(np.array_equal, both.batches, alone.batches))
    sample, companions = positions(both.batches), positions(both.companions)
    irrelevant = {q for q, label in pairs if not label}
    asked = {queries[p] for p in sample if labels[p]} - {queries[p] for p in sample if not labels[p]}
    assert sorted(queries[companions]) == sorted(asked & irrelevant)  # one for each
    assert not labels[companions].any()
    again = choose(examples, count=2 * half, seed=seed, within_queries=True)
    assert positions(again.companions) == companions


def test_the_seed_draws_the_companions() -> None:
    examples = MemoryExamples([9] * 40, [int(i < 1) for i in range(40)], [0] + [1] * 19 + [0] * 20)
    drawn = {
        tuple(positions(choose(examples, count=2, seed=s, within_queries=True).companions)) for s in range(20)
    }
    assert len(drawn - {()}) > 2  # () where the sample itself has one
