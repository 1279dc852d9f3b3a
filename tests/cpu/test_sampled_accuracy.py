"""Where the entropy term and the reward balance: by the loss itself, over every outcome of a group."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.answer_logits import AnswerLogits, log_probs_of
from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import LossTotals, group_advantages, policy_loss
from prorank_jax.rewards import answer_reward
from prorank_jax.sampled_accuracy import greatest_sampled_accuracy
from prorank_jax.types import Rollout
from tests.cpu.tiny import ANSWERS, VOCABULARY

CERTAIN = 30.0


def logits_of(scores: jax.Array, options: GrpoOptions) -> AnswerLogits:
    """Log odds [B] of `1` against `0`; nothing else is said, and the turn ends behind it."""
    other = jnp.zeros((len(scores), VOCABULARY)).at[:, ANSWERS.zero].set(CERTAIN)
    end = jnp.zeros(VOCABULARY).at[ANSWERS.end].set(CERTAIN)
    shape = (len(scores), options.group_size, options.max_new_tokens - 1, 1)
    return AnswerLogits(other.at[:, ANSWERS.one].set(CERTAIN + scores), jnp.tile(end, shape))


def mean_gradient(p: float, options: GrpoOptions) -> float:
    """Of the loss by a relevant prompt's log odds: over groups of 0 to G right answers, by their chance."""
    group = options.group_size
    right = np.arange(group + 1)
    chances = np.array([math.comb(group, k) * p**k * (1 - p) ** (group - k) for k in right])
    firsts = np.where(np.arange(group) < right[:, None], ANSWERS.one, ANSWERS.zero)
    ends = np.full((*firsts.shape, options.max_new_tokens - 1), ANSWERS.end)
    tokens = jnp.asarray(np.concatenate([firsts[..., None], ends], axis=2))
    reward = answer_reward(ANSWERS, options.format_weight, options.correct_weight)
    rewards = reward(tokens, jnp.ones(len(right), int))
    advantages, tied = group_advantages(rewards, options.advantage)
    untied = chances[1:-1].sum() if options.mask_tied_groups else 1.0
    each = group * options.max_new_tokens
    totals = LossTotals(jnp.float32(each * untied), jnp.float32(each), 1)

    def loss(scores: jax.Array) -> jax.Array:
        logits = logits_of(scores, options)
        old = jax.lax.stop_gradient(log_probs_of(logits, tokens))
        rollout = Rollout(tokens, jnp.ones(tokens.shape), old, rewards, advantages, tied)
        return policy_loss(logits, rollout, ANSWERS, options, None, totals)[0]

    score = math.log(p / (1 - p))
    return float(np.asarray(jax.grad(loss)(jnp.full(len(right), score))) @ chances)


@pytest.mark.parametrize(
    "options",
    [
        GrpoOptions(),
        GrpoOptions(correct_weight=0.5),
        GrpoOptions(entropy_coefficient=0.5, group_size=5),
        GrpoOptions(max_new_tokens=1),
        GrpoOptions(mask_tied_groups=False, entropy_coefficient=0.02),
        GrpoOptions(advantage="mean_std", entropy_coefficient=0.5),
        GrpoOptions(advantage="mean_std", mask_tied_groups=False, correct_weight=3.0),
    ],
)
def test_the_loss_has_no_gradient_at_the_balance_and_leads_there_from_both_sides(options):
    p = greatest_sampled_accuracy(options)
    assert 0.5 < p < 1
    assert mean_gradient(p, options) == pytest.approx(0, abs=2e-6)
    assert mean_gradient(p - 0.02, options) < -1e-4  # a step down the loss raises the log odds
    assert mean_gradient(min(p + 0.02, (1 + p) / 2), options) > 1e-4


def test_the_defaults_let_84_percent_be_right_and_more_entropy_lets_less():
    shares = [greatest_sampled_accuracy(GrpoOptions(entropy_coefficient=beta)) for beta in (0.1, 0.2, 0.5, 5)]
    assert round(shares[1], 2) == 0.84
    assert shares == sorted(shares, reverse=True)
    p, options = shares[1], GrpoOptions()
    tied = p**16 + (1 - p) ** 16
    push = options.correct_weight * (1 - 1 / 16) * p * (1 - p) / (2 * (1 - tied))
    assert push == pytest.approx(options.entropy_coefficient * (p - 0.5))


def test_groups_whose_subsets_outnumber_a_float_are_nearly_of_the_limit():
    """Without ties and with 1/G gone, the balance is a quadratic equation in p."""
    options = GrpoOptions(group_size=5000)
    ratio = options.max_new_tokens * options.entropy_coefficient / options.correct_weight
    limit = (1 - ratio + math.sqrt(1 + ratio**2)) / 2
    assert greatest_sampled_accuracy(options) == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"entropy_coefficient": 0.0}, 1.0),
        ({"entropy_coefficient": 0.05}, 1.0),  # in groups that do not tie, the last wrong answer weighs more
        ({"group_size": 2}, 1.0),
        ({"advantage": "mean_std"}, 1.0),
        ({"correct_weight": 0.0}, 0.5),
    ],
)
def test_where_the_entropy_term_stops_nothing_or_nothing_pushes(changes, expected):
    options = dataclasses.replace(GrpoOptions(), **changes)
    assert greatest_sampled_accuracy(options) == pytest.approx(expected)
    if expected == 1.0:
        assert mean_gradient(0.999, options) < 0
