"""Advantages, clip, KL and entropy against formulas written out by hand, as TRL has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.answer_logits import AnswerLogits, log_probs_of
from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import (
    answer_log_probs,
    clipped_objective,
    divergence_from_uniform,
    entropy,
    exact_kl,
    group_advantages,
    k3_estimate,
    loss_totals,
    policy_loss,
)
from prorank_jax.policy_gradient import rollout_metrics
from prorank_jax.types import Batch, Rollout
from tests.cpu.tiny import ANSWERS


def test_advantages_are_trls():
    rewards = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    mean, tied = group_advantages(jnp.asarray(rewards), "mean")
    scaled, _ = group_advantages(jnp.asarray(rewards), "mean_std")
    centred = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(mean, centred, atol=1e-6)
    # TRL 1.x: (rewards - mean) / (std + 1e-4) with torch's unbiased std
    np.testing.assert_allclose(scaled, centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-4), rtol=1e-5)
    assert not tied.any()


@given(st.floats(-5, 5, width=32), st.integers(2, 9))
def test_a_tied_group_has_no_advantage(reward, group):
    for kind in ("mean", "mean_std"):
        advantages, tied = group_advantages(jnp.full((2, group), reward), kind)
        assert tied.all()
        np.testing.assert_array_equal(advantages, 0)


@settings(max_examples=50)
@given(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_clip_is_asymmetric_and_only_holds_what_it_should(log_ratio, advantage):
    objective, held = clipped_objective(jnp.float32(log_ratio), jnp.float32(advantage), 0.2, 0.28)
    ratio = np.exp(np.float32(log_ratio))
    expected = min(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage)
    np.testing.assert_allclose(objective, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: clipped_objective(x, jnp.float32(advantage), 0.2, 0.28)[0])(
        jnp.float32(log_ratio)
    )
    if float(held):
        assert gradient == 0
    elif abs(advantage) > 1e-3 and min(abs(ratio - 0.8), abs(ratio - 1.28)) > 1e-3:
        assert gradient != 0


def test_k3_is_nonnegative_and_unbiased_for_the_exact_kl():
    key = jax.random.key(0)
    policy, reference = jax.random.normal(key, (2, 5, 12))
    exact = exact_kl(policy, reference)
    log_p, log_q = jax.nn.log_softmax(policy), jax.nn.log_softmax(reference)
    np.testing.assert_allclose(exact, (jnp.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-5)
    k3 = k3_estimate(log_p, log_q)
    assert (k3 >= 0).all()
    np.testing.assert_allclose((jnp.exp(log_p) * k3).sum(-1), exact, rtol=1e-4)  # its expectation


def test_entropies():
    np.testing.assert_allclose(entropy(jnp.zeros((2, 8))), np.log(8), rtol=1e-6)
    logits = jnp.zeros((1, 24)).at[0, 1].set(50.0)
    pair = answer_log_probs(logits, ANSWERS)
    np.testing.assert_allclose(entropy(pair), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(divergence_from_uniform(pair), [0], atol=1e-6)


def _random_case(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), 7)
    logits = AnswerLogits(jax.random.normal(keys[0], (3, 24)), jax.random.normal(keys[1], (3, 4, 1, 24)))
    reference = AnswerLogits(jax.random.normal(keys[2], (3, 24)), jax.random.normal(keys[3], (3, 4, 1, 24)))
    tokens = jax.random.randint(keys[4], (3, 4, 2), 0, 24)
    rewards = jax.random.normal(keys[5], (3, 4)).at[1].set(0.5)
    advantages, tied = group_advantages(rewards, "mean")
    old = log_probs_of(logits, tokens) + 0.3 * jax.random.normal(keys[6], tokens.shape)
    mask = jnp.ones((3, 4, 2)).at[0, 0, 1].set(0)
    return logits, reference, Rollout(tokens, mask, old, rewards, advantages, tied)


def _log_softmax(logits) -> np.ndarray:
    exact = np.asarray(logits, np.float64)
    return exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))


def _all_log_probs(logits: AnswerLogits, members: int) -> np.ndarray:
    """[B, G, L, V], of what `AnswerLogits` holds once for each group too."""
    first = np.repeat(np.asarray(logits.first)[:, None, None], members, axis=1)
    return _log_softmax(np.concatenate([first, logits.later], axis=2))


def _of_tokens(log_probs: np.ndarray, tokens) -> np.ndarray:
    return np.take_along_axis(log_probs, np.asarray(tokens)[..., None], axis=-1)[..., 0]


def _pair_log_probs(logits: AnswerLogits) -> np.ndarray:
    return _log_softmax(np.asarray(logits.first)[:, [ANSWERS.zero, ANSWERS.one]])


@pytest.mark.parametrize("estimator", ["exact", "k3"])
def test_loss_written_out(estimator):
    logits, reference, rollout = _random_case()
    options = GrpoOptions(
        group_size=4,
        kl_coefficient=0.3,
        kl_estimator=estimator,
        entropy_coefficient=0.2,
        mask_tied_groups=True,
    )
    loss, metrics = policy_loss(logits, rollout, ANSWERS, options, reference)
    log_p, log_q = _all_log_probs(logits, 4), _all_log_probs(reference, 4)
    ratio = np.exp(_of_tokens(log_p, rollout.tokens) - rollout.log_probs)
    advantages = np.asarray(rollout.advantages)[..., None]
    surrogate = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.28) * advantages)
    weight = np.asarray(rollout.mask) * ~np.asarray(rollout.tied)[:, None, None]
    gap = _of_tokens(log_q - log_p, rollout.tokens)
    exact = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    kl = np.average(exact if estimator == "exact" else np.exp(gap) - gap - 1, weights=rollout.mask)
    bonus = (np.log(0.5) - _pair_log_probs(logits)).mean()  # KL(uniform ‖ policy) over both answers
    expected = -(surrogate * weight).sum() / weight.sum() + 0.3 * kl + 0.2 * bonus
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    assert 0 < metrics["clip_fraction"] < 1


def _with_forced_ends(rollout: Rollout) -> Rollout:
    """Two answers of the first members that were made to end, one of the second's, and one that goes on."""
    zero, one, end = ANSWERS.zero, ANSWERS.one, ANSWERS.end
    tokens = rollout.tokens.at[:, 0].set(jnp.array([[one, end], [zero, 9], [zero, end]]))
    return rollout.replace(tokens=tokens.at[2, 1].set(jnp.array([one, end])), mask=jnp.ones((3, 4, 2)))


@pytest.mark.parametrize(
    ("forced", "left_out"), [(0, []), (1, [(0, 0), (2, 0)]), (2, [(0, 0), (2, 0), (2, 1)])]
)
@pytest.mark.parametrize("estimator", ["exact", "k3"])
def test_k3_is_of_sampled_tokens_and_the_exact_kl_of_all(estimator, forced, left_out):
    """Values and gradients, written out: nobody drew a forced end from the policy."""
    logits, reference, rollout = _random_case()
    rollout = _with_forced_ends(rollout)
    sampled = np.ones((3, 4, 2))
    for prompt, member in left_out:
        sampled[prompt, member, 1] = 0

    def all_log_probs(of):
        first = jnp.broadcast_to(of.first[:, None, None], (3, 4, 1, 24))
        return jax.nn.log_softmax(jnp.concatenate([first, of.later], axis=2))

    def plain(logits):
        log_p, log_q = all_log_probs(logits), all_log_probs(reference)
        if estimator == "exact":
            return 0.3 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        gap = jnp.take_along_axis(log_q - log_p, rollout.tokens[..., None], axis=-1)[..., 0]
        return 0.3 * ((jnp.exp(gap) - gap - 1) * sampled).sum() / sampled.sum()

    options = GrpoOptions(group_size=4, forced_ends=forced, kl_coefficient=0.3, kl_estimator=estimator)

    def ours(logits):
        (loss, metrics), (rest, _) = (
            policy_loss(logits, rollout, ANSWERS, options, given) for given in (reference, None)
        )
        return loss - rest, metrics["kl"]

    expected, slopes = jax.jit(jax.value_and_grad(plain))(logits)
    (value, kl), gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(0.3 * kl, expected, rtol=1e-5)
    for got, slope in zip(gradients[:2], slopes[:2], strict=True):
        np.testing.assert_allclose(got, slope, atol=1e-6)


def test_parts_of_a_batch_add_up_to_its_k3_though_their_forced_ends_differ():
    logits, reference, rollout = _random_case()
    rollout = _with_forced_ends(rollout)
    options = GrpoOptions(group_size=4, kl_coefficient=0.3, kl_estimator="k3")
    totals = loss_totals(rollout, ANSWERS, options)
    whole, metrics = policy_loss(logits, rollout, ANSWERS, options, reference)

    def part(row: int):
        given = jax.tree.map(lambda leaf: leaf[row : row + 1], (logits, rollout, reference))
        return policy_loss(given[0], given[1], ANSWERS, options, given[2], totals)

    parts = [part(row) for row in range(3)]
    np.testing.assert_allclose(sum(loss for loss, _ in parts), whole, rtol=1e-5)
    np.testing.assert_allclose(sum(of["kl"] for _, of in parts), metrics["kl"], rtol=1e-5)


@pytest.mark.parametrize("gap", [-200.0, 200.0])
def test_a_forced_end_decides_nothing_of_k3_however_unlikely(gap):
    logits, reference, rollout = _random_case()
    rollout = _with_forced_ends(rollout)
    options = GrpoOptions(group_size=4, kl_coefficient=0.3, kl_estimator="k3", entropy_coefficient=0.0)
    unlikely = reference._replace(later=reference.later.at[0, 0, 0, ANSWERS.end].add(gap))

    def loss(logits, reference):
        return policy_loss(logits, rollout, ANSWERS, options, reference)[0]

    for ours, theirs in zip(
        jax.tree.leaves(jax.value_and_grad(loss)(logits, unlikely)),
        jax.tree.leaves(jax.value_and_grad(loss)(logits, reference)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("estimator", ["exact", "k3"])
@pytest.mark.parametrize("gap", [-200.0, 200.0])
def test_what_comes_behind_the_end_decides_nothing_however_unlikely(estimator, gap):
    logits, reference, rollout = _random_case()
    options = GrpoOptions(group_size=4, kl_coefficient=0.3, kl_estimator=estimator)
    unlikely = reference._replace(later=reference.later.at[0, 0, 0, rollout.tokens[0, 0, 1]].add(gap))
    far = rollout.replace(log_probs=rollout.log_probs.at[0, 0, 1].add(gap))

    def loss(logits, rollout, reference):
        return policy_loss(logits, rollout, ANSWERS, options, reference)[0]

    expected = jax.value_and_grad(loss)(logits, rollout, reference)
    got = jax.value_and_grad(loss)(logits, far, unlikely)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("advantage", [0.0, -1.0, 1.0])
def test_a_ratio_beyond_all_bounds_is_a_number(advantage):
    value, gradient = jax.value_and_grad(
        lambda x: clipped_objective(x, jnp.float32(advantage), 0.2, 0.28)[0]
    )(jnp.float32(200.0))
    assert np.isfinite(value)
    assert gradient == 0


@pytest.mark.parametrize("now", [-6.0, 2.0])
def test_a_forced_end_has_no_importance_weight_in_later_updates(now):
    """Of four wrong or right answers, the first one was made to end; the others ended by themselves."""
    zero, one, end = ANSWERS.zero, ANSWERS.one, ANSWERS.end
    tokens = jnp.array([[[one, end], [zero, 5], [zero, 5], [zero, 5]]])
    advantages = jnp.array([[-0.75, 0.25, 0.25, 0.25]])
    options = GrpoOptions(group_size=4, forced_ends=1, entropy_coefficient=0.0)

    def logits_with(end_logit):
        later = jnp.zeros((1, 4, 1, 24)).at[0, 0, 0, end].set(end_logit)
        return AnswerLogits(jnp.zeros((1, 24)), later)

    old = log_probs_of(logits_with(-11.0), tokens)
    rollout = Rollout(tokens, jnp.ones((1, 4, 2)), old, advantages, advantages, jnp.zeros(1, bool))

    def loss(end_logit):
        return policy_loss(logits_with(end_logit), rollout, ANSWERS, options, None)[0]

    share = float(jax.nn.softmax(logits_with(now).later[0, 0, 0])[end])
    np.testing.assert_allclose(jax.grad(loss)(now), 0.75 * (1 - share) / 8, rtol=1e-4)


def test_a_batch_of_tied_groups_has_no_policy_gradient():
    logits, _, rollout = _random_case()
    rollout = rollout.replace(tied=jnp.ones(3, bool), advantages=jnp.zeros((3, 4)))
    options = GrpoOptions(group_size=4, entropy_coefficient=0.0)
    gradient = jax.grad(lambda x: policy_loss(x, rollout, ANSWERS, options, None)[0])(logits)
    assert all(not np.asarray(leaf).any() for leaf in gradient)


@pytest.mark.parametrize(("forced", "format_rate"), [(0, 0.25), (1, 0.0)])
def test_the_format_rate_leaves_out_answers_that_were_made_to_end(forced, format_rate):
    """A policy that answers and never ends its turn, but for the first member of each group."""
    zero, one, end = ANSWERS.zero, ANSWERS.one, ANSWERS.end
    tokens = jnp.array([[[one, end], [one, zero], [zero, one], [one, one]]] * 2)
    ones = jnp.ones((2, 4))
    rollout = Rollout(tokens, jnp.ones(tokens.shape), jnp.zeros(tokens.shape), ones, ones, jnp.ones(2, bool))
    batch = Batch(np.zeros((2, 3), np.int32), np.array([3, 3]), np.array([1, 0]), np.arange(2))
    options = GrpoOptions(group_size=4, forced_ends=forced)
    metrics = {name: float(v) for name, v in rollout_metrics(rollout, batch, ANSWERS, options).items()}
    expected = {"format_rate": format_rate, "accuracy": 0.5, "reward": 1.0, "tied_groups": 1.0}
    assert metrics == expected


@pytest.mark.parametrize("score", [-30.0, -2.0, 0.0, 2.0, 30.0])
def test_the_bonus_pulls_back_hardest_where_the_answer_is_constant(score):
    """Deviation 8: its slope is sigmoid(s) - 1/2, which does not vanish for a one-sided policy."""

    def bonus(s):
        return divergence_from_uniform(jax.nn.log_softmax(jnp.stack([jnp.float32(0), s])))

    slope = jax.grad(bonus)(jnp.float32(score))
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-score)) - 0.5, atol=1e-6)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.05, 0.5)])
def test_the_metrics_of_a_loss_written_out(masks, low, high):
    logits, _, rollout = _random_case()
    options = GrpoOptions(
        group_size=4,
        mask_tied_groups=masks,
        forced_ends=0,
        entropy_coefficient=0.0,
        clip_low=low,
        clip_high=high,
    )
    loss, metrics = policy_loss(logits, rollout, ANSWERS, options, None)
    log_p = _all_log_probs(logits, 4)
    ratio = np.exp(_of_tokens(log_p, rollout.tokens) - rollout.log_probs)
    advantages = np.asarray(rollout.advantages)[..., None]
    weight = np.asarray(rollout.mask) * ~(masks & np.asarray(rollout.tied))[:, None, None]
    held = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    surrogate = np.minimum(ratio * advantages, np.clip(ratio, 1 - low, 1 + high) * advantages)
    np.testing.assert_allclose(loss, -np.average(surrogate, weights=weight), rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], np.average(held, weights=weight), rtol=1e-5)
    for name, said in (("answer_entropy", _pair_log_probs(logits)), ("entropy", log_p[:, 0, 0])):
        np.testing.assert_allclose(metrics[name], -(np.exp(said) * said).sum(-1).mean(), rtol=1e-5)
