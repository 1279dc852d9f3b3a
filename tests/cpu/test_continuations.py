"""Completions that are alike run once, and nothing that is learned or sampled changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prorank_jax.continuations
from prorank_jax.config import GrpoOptions
from prorank_jax.continuations import Fed, distinct, for_members, of_distinct_or_all, of_members
from prorank_jax.policy_gradient import on_policy_gradients, replayed_gradients, sample_rollout
from prorank_jax.rollouts import uniform_draws
from prorank_jax.train_state import Policy
from tests.cpu.test_rollouts import LENGTHS, _moved, _reward_that_differs, uneven_batch
from tests.cpu.tiny import ANSWERS, tiny_model

GROUP = 9


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 6])
def test_what_is_fed_is_what_differs(vocabulary, width):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, vocabulary, (5, GROUP, width)).astype(np.int32)
        fed, holds_all = distinct(jnp.asarray(tokens), 4)
        groups = [list(dict.fromkeys(map(tuple, group))) for group in tokens.tolist()]
        assert bool(holds_all) == all(len(group) <= 4 for group in groups)
        for row, group in enumerate(groups):
            kept = [tuple(one) for one in np.asarray(fed.tokens[row]).tolist()]
            assert kept == (group + [group[0]] * 4)[:4]
        if holds_all:
            index = np.broadcast_to(np.asarray(fed.members)[..., None], tokens.shape)
            np.testing.assert_array_equal(np.take_along_axis(np.asarray(fed.tokens), index, 1), tokens)


def test_values_come_back_to_the_members():
    values = jnp.arange(2 * 3 * 2).reshape(2, 3, 2)
    members = jnp.array([[0, 2, 2, 1], [1, 1, 0, 0]])
    expected = [[values[b, members[b, g]] for g in range(4)] for b in range(2)]
    np.testing.assert_array_equal(of_members(values, members), jnp.array(expected))
    own = jnp.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    expected = [[own[b, members[b, g], :, g] for g in range(4)] for b in range(2)]
    np.testing.assert_array_equal(for_members(own, members), jnp.array(expected))


def count_of(fed: Fed) -> jax.Array:
    return jnp.array(fed.tokens.shape[1])


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([[1, 2, 1, 2, 3, 4], [7, 7, 7, 7, 7, 7]], 4),
        ([[1, 2, 1, 2, 3, 4], [7, 6, 5, 4, 3, 7]], 6),  # one group with more is enough
        ([[1, 2, 3, 4]], 4),  # no larger than what differs at most
        ([[1, 1]], 2),
    ],
)
def test_all_are_fed_where_they_differ_too_much(tokens, count):
    fed = jnp.array(tokens)[..., None]
    assert of_distinct_or_all(fed, count_of) == count
    assert of_distinct_or_all(fed[..., :0], count_of) == fed.shape[1]


@pytest.mark.parametrize(
    ("temperature", "new_tokens", "estimator", "fed"),
    [(0.3, 2, "exact", 4), (0.3, 4, "k3", 4), (2.0, 2, "", GROUP)],
)
def test_loss_gradients_and_samples_are_those_of_all_completions(
    temperature, new_tokens, estimator, fed, monkeypatch
):
    """A cold policy says few different things, a warm one many: then all are fed."""
    model, params = tiny_model()
    batch, policy = uneven_batch(2), Policy(model, _moved(params, 1)) if estimator else None
    options = GrpoOptions(
        group_size=GROUP,
        max_new_tokens=new_tokens,
        temperature=temperature,
        kl_coefficient=0.3 if estimator else 0.0,
        kl_estimator=estimator or "exact",
    )
    uniform = uniform_draws(jax.random.key(11), len(LENGTHS), GROUP, new_tokens)
    ran = []
    logits = prorank_jax.policy_gradient.completion_logits

    def watched(*given, **options):
        jax.debug.callback(lambda: ran.append(given[4].tokens.shape[1]))
        return logits(*given, **options)

    monkeypatch.setattr(prorank_jax.policy_gradient, "completion_logits", watched)

    def learned(params):
        given = (params, {}, model, policy, batch)
        (loss, (metrics, rollout)), gradients = on_policy_gradients(
            *given, uniform, _reward_that_differs, ANSWERS, options
        )
        return loss, metrics, gradients, rollout

    def checked(outcome, expected):
        for ours, plain in zip(jax.tree.leaves(outcome), jax.tree.leaves(expected), strict=True):
            ours, plain = np.asarray(ours), np.asarray(plain)
            np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * max(np.abs(plain).max(), 1e-2))

    ours = jax.jit(learned)(params)
    rollout = ours[-1]
    assert bool((~rollout.tied).any())

    def afterwards(params):
        replayed = replayed_gradients(params, {}, model, policy, batch, rollout, ANSWERS, options)
        return replayed, sample_rollout(params, model, batch, uniform, _reward_that_differs, ANSWERS, options)

    replayed, sampled = jax.jit(afterwards)(params)
    jax.effects_barrier()
    assert set(ran) == {fed}
    checked(sampled, rollout)
    checked(replayed, ((ours[0], {name: ours[1][name] for name in replayed[0][1]}), ours[2]))
    if fed < GROUP:
        monkeypatch.setattr(prorank_jax.continuations, "MOST_DISTINCT", GROUP)
        ran.clear()
        expected = jax.jit(lambda params: learned(params))(params)
        jax.effects_barrier()
        assert set(ran) == {GROUP}
        np.testing.assert_array_equal(rollout.tokens, expected[-1].tokens)
        checked(ours, expected)
