"""Some members of a group end their turn behind an answer, and those alone."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.completions import end_some_after_answer
from prorank_jax.config import GrpoOptions
from prorank_jax.policy_gradient import sample_rollout
from prorank_jax.rewards import answer_reward
from prorank_jax.rollouts import uniform_draws
from prorank_jax.types import Params, Rollout
from tests.cpu.test_rollouts import LENGTHS, uneven_batch
from tests.cpu.tiny import ANSWERS, tiny_model

HALF = 64
REWARD = answer_reward(ANSWERS, 0.5, 1.0)


def forced_place(tokens: list[int]) -> int | None:
    """Where the token behind the first answer of a turn stands."""
    for place, token in enumerate(tokens[:-1]):
        if token == ANSWERS.end:
            return None
        if token in (ANSWERS.zero, ANSWERS.one):
            return place + 1
    return None


def made_to_end(tokens: list[int]) -> list[int]:
    place = forced_place(tokens)
    return tokens if place is None else [*tokens[:place], *[ANSWERS.end] * (len(tokens) - place)]


def test_forced_ends_touch_only_the_first_members_that_answered():
    tokens, previous = jnp.array([[1, 1, 1]]), jnp.array([[3, 2, 5]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 0), [[1, 1, 1]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 2), [[7, 1, 1]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 3), [[7, 1, 7]])


@pytest.mark.parametrize("new_tokens", [2, 4])
def test_a_rollout_ends_the_turns_of_the_first_members_behind_their_answers(new_tokens):
    """Against the rollout of the same random numbers in which nobody is made to end.

    Both halves of a group draw alike, and what meets at the border are answers that go on.
    """
    model, params = tiny_model(scale=1.0)  # any token is about as likely as another
    batch = uneven_batch()

    @partial(jax.jit, static_argnums=2)
    def sample(params: Params, uniform: jax.Array, forced: int) -> Rollout:
        options = GrpoOptions(group_size=2 * HALF, max_new_tokens=new_tokens, forced_ends=forced)
        return sample_rollout(params, model, batch, uniform, REWARD, ANSWERS, options)

    uniform = uniform_draws(jax.random.key(1), len(LENGTHS), 2 * HALF, new_tokens)
    drawn = np.asarray(sample(params, uniform, 0).tokens)[:, :HALF].tolist()
    changes = np.array([[made_to_end(member) != member for member in group] for group in drawn])
    order = np.argsort(changes, axis=1, kind="stable")
    mirrored = np.concatenate([order, order[:, ::-1]], axis=1)
    uniform = np.take_along_axis(np.asarray(uniform), mirrored[..., None], axis=1)

    free, forced = sample(params, uniform, 0), sample(params, uniform, HALF)
    tokens = np.asarray(free.tokens)
    expected = [[made_to_end(member) for member in group[:HALF]] for group in tokens.tolist()]
    np.testing.assert_array_equal(forced.tokens[:, :HALF], expected)
    np.testing.assert_array_equal(forced.tokens[:, HALF:], tokens[:, HALF:])
    changed = (np.asarray(forced.tokens) != tokens).any(axis=2)
    assert changed[:, HALF - 1].all()
    assert all(made_to_end(group[HALF]) != group[HALF] for group in tokens.tolist())
    places = {forced_place(member) for group in tokens[:, :HALF].tolist() for member in group}
    assert places >= set(range(1, new_tokens))
    np.testing.assert_array_equal(forced.rewards, REWARD(forced.tokens, batch.labels))
    assert (np.asarray(forced.rewards) >= np.asarray(free.rewards)).all()
