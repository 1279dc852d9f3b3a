"""Which queries of a training file are held out stays what it is, from version to version."""

from __future__ import annotations

import pytest

from prorank_jax.embedding_jsonl import split_of


@pytest.mark.parametrize(
    ("query", "split"),
    [
        ("how tall is mont blanc", "train"),
        ("tea", "train"),
        ("火山", "train"),
        ("ärzte in berlin", "train"),
        ("capital of peru", "dev"),
        ("who won in 1954", "dev"),
        ("où est Paris", "dev"),
    ],
)
def test_the_split_of_a_query_stays_what_it_is(query: str, split: str) -> None:
    """Else stage 2, or an update, would train on what was held out, and measure what it learned."""
    assert split_of(query) == split


def test_a_query_of_ten_is_held_out() -> None:
    held_out = [split_of(f"query {number}") for number in range(10_000)].count("dev")
    assert abs(held_out - 1000) <= 100  # three standard deviations are 90
