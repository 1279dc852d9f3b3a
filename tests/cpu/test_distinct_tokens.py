"""Completions that begin alike are computed once, and nothing comes out differently."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax import distinct_tokens as module
from prorank_jax.config import GrpoOptions
from prorank_jax.distinct_tokens import SLOTS, SMALLEST_GROUP, distinct_tokens, for_each_distinct
from prorank_jax.policy_gradient import on_policy_loss
from prorank_jax.rollouts import uniform_draws
from tests.cpu.tiny import ANSWERS, random_batch, tiny_model

GROUP = SMALLEST_GROUP + 4


@given(st.lists(st.lists(st.integers(0, 6), min_size=8, max_size=8), min_size=1, max_size=3))
@settings(max_examples=30)
def test_slots_hold_the_distinct_tokens_in_their_order(groups):
    found = distinct_tokens(jnp.array(groups, jnp.int32))
    for row, group in enumerate(groups):
        distinct = list(dict.fromkeys(group))
        assert found.slots[row].tolist() == [distinct.index(token) for token in group]
        held = (distinct + [0] * SLOTS)[:SLOTS]
        assert found.tokens[row].tolist() == held
    assert bool(found.fit) == all(len(set(group)) <= SLOTS for group in groups)


@pytest.mark.parametrize(("kinds", "computed"), [(2, SLOTS), (SLOTS, SLOTS), (SLOTS + 1, GROUP)])
def test_only_as_many_are_computed_as_differ(kinds, computed):
    tokens = jnp.arange(2 * GROUP, dtype=jnp.int32).reshape(2, GROUP) % kinds
    weights = jnp.arange(10.0)
    run: list[int] = []

    def compute(tokens):
        jax.debug.callback(lambda tokens: run.append(tokens.shape[1]), tokens)
        return jnp.stack([weights[tokens], weights[tokens] ** 2], axis=-1)

    results = jax.jit(lambda tokens: for_each_distinct(compute, tokens))(tokens)
    jax.effects_barrier()
    assert run == [computed]
    np.testing.assert_array_equal(results, jnp.stack([weights[tokens], weights[tokens] ** 2], axis=-1))


def test_small_groups_have_no_branches():
    small = jnp.zeros((2, SMALLEST_GROUP - 1), jnp.int32)
    assert "cond" not in str(jax.make_jaxpr(lambda t: for_each_distinct(lambda x: x + 1, t))(small))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_loss_completions_and_gradient_are_those_of_every_completion_by_itself(temperature, monkeypatch):
    model, params = tiny_model()
    batch, options = random_batch(), GrpoOptions(group_size=GROUP, temperature=temperature)
    uniform = uniform_draws(jax.random.key(3), 4, GROUP, 2)

    def reward(tokens, labels):
        return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)

    def outcome():
        def loss(params):
            value, (_, rollout) = on_policy_loss(
                params, model, None, batch, uniform, reward, ANSWERS, options
            )
            return value, rollout

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (ours, rollout), gradients = outcome()
    fits = bool(distinct_tokens(rollout.tokens[:, :, 0]).fit)
    assert fits == (temperature < 1)
    monkeypatch.setattr(module, "SMALLEST_GROUP", GROUP + 1)
    (plain, plain_rollout), plain_gradients = outcome()
    np.testing.assert_array_equal(rollout.tokens, plain_rollout.tokens)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    for got, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain_gradients), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max() + 1e-8)
