"""Stage 1's loss as a function of the parameters: sampled and differentiated in one pass, or replayed."""

from __future__ import annotations

import jax

from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import LossTotals, group_advantages, policy_loss
from prorank_jax.models.transformer import Transformer
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import RewardFunction, is_correct, is_formatted
from prorank_jax.rollouts import (
    AnswerLogits,
    close_completions,
    completion_mask,
    end_some_after_answer,
    log_probs_of,
    replay_logits,
    sample_completions,
)
from prorank_jax.train_state import Policy
from prorank_jax.types import Batch, Params, Rollout

Metrics = dict[str, jax.Array]


def sample_rollout(
    params: Params,
    model: Transformer,
    batch: Batch,
    uniform: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> tuple[Rollout, AnswerLogits]:
    """Samples and rewards a group for each prompt; gradients flow through the logits only.

    Args:
        uniform: [B, G, L], of `rollouts.uniform_draws`.
    """

    def explore(tokens: jax.Array, previous: jax.Array) -> jax.Array:
        return end_some_after_answer(tokens, previous, answers, options.forced_ends)

    tokens, logits = sample_completions(
        model, params, batch, uniform, temperature=options.temperature, edit=explore
    )
    tokens = close_completions(tokens, answers.end)
    rewards = reward(tokens, batch.labels)
    advantages, tied = group_advantages(rewards, options.advantage)
    rollout = Rollout(
        tokens=tokens,
        mask=completion_mask(tokens, answers.end),
        log_probs=log_probs_of(logits, tokens),
        rewards=rewards,
        advantages=advantages,
        tied=tied,
    )
    return jax.lax.stop_gradient(rollout), logits


def rollout_metrics(rollout: Rollout, batch: Batch, answers: AnswerTokens, options: GrpoOptions) -> Metrics:
    """What was sampled, in averages: float32 scalars.

    The format rate leaves out the members whose turn `options.forced_ends` ends: they would give a policy
    that never ends its own a rate above 0. The reward is what the policy learns from, theirs included.
    """
    own = rollout.tokens[:, options.forced_ends :]  # [B, G - forced, L]
    return {
        "reward": rollout.rewards.mean(),
        "format_rate": is_formatted(own, answers).mean(),
        "accuracy": is_correct(rollout.tokens, batch.labels, answers).mean(),
        "tied_groups": rollout.tied.mean(),
    }


def on_policy_loss(
    params: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    uniform: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
    """Samples, rewards and differentiates in one pass (deviation 2 of `grpo`)."""
    rollout, logits = sample_rollout(params, model, batch, uniform, reward, answers, options)
    initial = _reference_logits(reference, batch, rollout, options)
    loss, metrics = policy_loss(logits, rollout, answers, options, initial)
    return loss, (metrics, rollout)


def replayed_loss(
    params: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    rollout: Rollout,
    answers: AnswerTokens,
    options: GrpoOptions,
    *,
    totals: LossTotals | None = None,
    on_policy: bool = False,
) -> tuple[jax.Array, Metrics]:
    """The loss of stored completions.

    Args:
        totals: of the whole batch where this is a part of it.
        on_policy: the parameters are still those that sampled, so ratios are exactly 1, as in
            `on_policy_loss`, and not what replaying rounds otherwise than sampling.
    """
    logits = replay_logits(model, params, batch, rollout.tokens, options.temperature)
    if on_policy:
        own = log_probs_of(logits, rollout.tokens)
        rollout = rollout.replace(log_probs=jax.lax.stop_gradient(own))  # type: ignore[attr-defined]
    initial = _reference_logits(reference, batch, rollout, options)
    return policy_loss(logits, rollout, answers, options, initial, totals)


def _reference_logits(
    reference: Policy | None, batch: Batch, rollout: Rollout, options: GrpoOptions
) -> AnswerLogits | None:
    if reference is None:
        return None
    return jax.lax.stop_gradient(replay_logits(*reference, batch, rollout.tokens, options.temperature))
