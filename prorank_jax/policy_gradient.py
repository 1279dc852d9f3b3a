"""Stage 1's loss and its gradients: sampled and differentiated in one pass, or of stored completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from prorank_jax.answer_logits import AnswerLogits, log_probs_of
from prorank_jax.completions import close_completions, completion_mask, end_some_after_answer
from prorank_jax.config import GrpoOptions
from prorank_jax.continuations import Fed, of_distinct_or_all
from prorank_jax.grpo import LossTotals, group_advantages, policy_loss
from prorank_jax.models.lora import combine
from prorank_jax.models.transformer import Transformer
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import RewardFunction, is_correct, is_formatted
from prorank_jax.rollouts import (
    Edit,
    Prompt,
    begin_completions,
    completion_logits,
    end_completions,
    fed_tokens,
    read_prompts,
)
from prorank_jax.train_state import Policy
from prorank_jax.types import Batch, Params, Rollout

Metrics = dict[str, jax.Array]
Aside = TypeVar("Aside")


def sample_rollout(
    params: Params,
    model: Transformer,
    batch: Batch,
    uniform: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> Rollout:
    """Samples and rewards a group for each prompt; no gradient flows through it.

    Args:
        uniform: [B, G, L], of `rollouts.uniform_draws`.
    """
    prompt = read_prompts(model, params, batch, options.temperature)
    begun = _begin(params, model, batch, prompt, uniform, answers, options)

    def finish(fed: Fed) -> Rollout:
        logits = completion_logits(model, params, batch, prompt, fed, options.temperature)
        return _finish(logits, begun, batch, uniform, reward, answers, options)

    return of_distinct_or_all(fed_tokens(begun, uniform.shape[2]), finish)


def _explore(answers: AnswerTokens, options: GrpoOptions) -> Edit:
    return lambda tokens, previous: end_some_after_answer(tokens, previous, answers, options.forced_ends)


def _begin(
    params: Params,
    model: Transformer,
    batch: Batch,
    prompt: Prompt,
    uniform: jax.Array,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> jax.Array:
    """All tokens but the last; what follows the end of a turn is made alike, for it is never read."""
    edit = _explore(answers, options)
    begun = begin_completions(
        model, params, batch, prompt, uniform, temperature=options.temperature, edit=edit
    )
    return close_completions(begun, answers.end)


def _finish(
    logits: AnswerLogits,
    begun: jax.Array,
    batch: Batch,
    uniform: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> Rollout:
    """Samples the last token, rewards, and notes what a loss needs."""
    tokens = end_completions(logits, begun, uniform, edit=_explore(answers, options))
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
    return jax.lax.stop_gradient(rollout)


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


Learned = tuple[tuple[jax.Array, tuple[Metrics, Rollout]], Params]
"""((loss, (metrics, rollout)), gradients), as `jax.value_and_grad` orders them."""


def on_policy_gradients(
    trained: Params,
    frozen: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    uniform: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> Learned:
    """Samples, rewards and differentiates in one pass (deviation 2 of `grpo`).

    Args:
        trained, frozen: the parameters with and without gradients; see `models.lora.combine`.
        uniform: [B, G, L], of `rollouts.uniform_draws`.
    """
    prompt, through_prompt = _read(trained, frozen, model, batch, options)
    begun = _begin(combine(frozen, trained), model, batch, prompt, uniform, answers, options)
    initial = _read_reference(reference, batch, options)

    def loss(trained: Params, prompt: Prompt, fed: Fed) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
        params = combine(frozen, trained)
        logits = completion_logits(model, params, batch, prompt, fed, options.temperature, trains=True)
        rollout = _finish(logits, begun, batch, uniform, reward, answers, options)
        reference_logits = _reference_logits(initial, batch, fed, options)
        total, metrics = policy_loss(logits, rollout, answers, options, reference_logits)
        return total, (metrics, rollout)

    return _differentiate(loss, trained, prompt, through_prompt, fed_tokens(begun, uniform.shape[2]))


def replayed_gradients(
    trained: Params,
    frozen: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    rollout: Rollout,
    answers: AnswerTokens,
    options: GrpoOptions,
    *,
    totals: LossTotals | None = None,
    on_policy: bool = False,
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """Loss, metrics and gradients of stored completions: ((loss, metrics), gradients).

    Args:
        trained, frozen: as in `on_policy_gradients`.
        totals: of the whole batch where this is a part of it.
        on_policy: the parameters are still those that sampled, so ratios are exactly 1, as in
            `on_policy_gradients`, and not what replaying rounds otherwise than sampling.
    """
    prompt, through_prompt = _read(trained, frozen, model, batch, options)
    initial = _read_reference(reference, batch, options)

    def loss(trained: Params, prompt: Prompt, fed: Fed) -> tuple[jax.Array, Metrics]:
        params = combine(frozen, trained)
        logits = completion_logits(model, params, batch, prompt, fed, options.temperature, trains=True)
        stored = rollout
        if on_policy:
            own = jax.lax.stop_gradient(log_probs_of(logits, rollout.tokens))
            stored = rollout.replace(log_probs=own)  # type: ignore[attr-defined]
        reference_logits = _reference_logits(initial, batch, fed, options)
        return policy_loss(logits, stored, answers, options, reference_logits, totals)

    tokens = rollout.tokens
    return _differentiate(loss, trained, prompt, through_prompt, fed_tokens(tokens, tokens.shape[2]))


def _read(
    trained: Params, frozen: Params, model: Transformer, batch: Batch, options: GrpoOptions
) -> tuple[Prompt, Callable[[Prompt], Params]]:
    """The pass over the prompts, and what takes its cotangents to gradients.

    The pass stands outside of the choice which completions to feed, which needs the first tokens: a gradient
    through that choice would keep what either way needs.
    """

    def read(trained: Params) -> Prompt:
        return read_prompts(model, combine(frozen, trained), batch, options.temperature, trains=True)

    prompt, pull_back = jax.vjp(read, trained)
    return prompt, lambda cotangents: pull_back(cotangents)[0]


def _differentiate(
    loss: Callable[[Params, Prompt, Fed], tuple[jax.Array, Aside]],
    trained: Params,
    prompt: Prompt,
    through_prompt: Callable[[Prompt], Params],
    fed: jax.Array,
) -> tuple[tuple[jax.Array, Aside], Params]:
    """The loss over the completions [B, G, S] that are fed, what it gives besides, and all gradients.

    Args:
        prompt, through_prompt: of `_read`.
    """

    def learn(chosen: Fed) -> tuple[tuple[jax.Array, Aside], tuple[Params, Prompt]]:
        def of_chosen(trained: Params, prompt: Prompt) -> tuple[jax.Array, Aside]:
            return loss(trained, prompt, chosen)

        return jax.value_and_grad(of_chosen, argnums=(0, 1), has_aux=True)(trained, prompt)

    outcome, (direct, to_prompt) = of_distinct_or_all(fed, learn)
    return outcome, jax.tree.map(jnp.add, direct, through_prompt(to_prompt))


def _read_reference(
    reference: Policy | None, batch: Batch, options: GrpoOptions
) -> tuple[Policy, Prompt] | None:
    return None if reference is None else (reference, read_prompts(*reference, batch, options.temperature))


def _reference_logits(
    initial: tuple[Policy, Prompt] | None, batch: Batch, fed: Fed, options: GrpoOptions
) -> AnswerLogits | None:
    if initial is None:
        return None
    policy, prompt = initial
    return jax.lax.stop_gradient(completion_logits(*policy, batch, prompt, fed, options.temperature))
