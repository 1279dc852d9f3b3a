"""Prompts of one query, and what they start with alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from prorank_jax.shared_prefix import make_groups, shared_length
from tests.cpu.grouped_prompts import groups, make_prompts


@given(groups)
def test_a_group_has_one_query_and_shares_what_its_prompts_do(groups):
    prompts, queries = make_prompts(groups)
    made = make_groups(prompts, queries)
    assert sorted(place for one in made for place in one.places) == list(range(len(prompts)))
    for one in made:
        (query,) = {queries[place] for place in one.places}
        members = [prompts[place] for place in one.places]
        shortest = min(map(len, members))
        if len(members) == 1:
            assert one.shared == 0
        else:
            drawn = groups[int(query.removeprefix("query "))][0]
            assert min(drawn, shortest - 1) <= one.shared < shortest
            assert len({tuple(member[: one.shared].tolist()) for member in members}) == 1
        assert one.rests == [len(member) - one.shared for member in members]
        assert one.rests == sorted(one.rests, reverse=True)


def test_a_query_that_comes_back_is_another_group():
    prompts = [np.array([1, 2, place]) for place in range(3)]
    assert [one.places for one in make_groups(prompts, ["a", "b", "a"])] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2], [1, 2, 3]], 1),
        ([[1], [1]], 0),
        ([[5, 6, 7]], 2),
        ([[1, 2], [3, 2]], 0),
    ],
)
def test_one_token_of_each_prompt_is_its_own(prompts, shared):
    assert shared_length([np.array(prompt) for prompt in prompts]) == shared
