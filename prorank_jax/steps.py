"""The jitted functions of a run: initial state, GRPO step, probe step. Nothing else is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import group_advantages, policy_loss
from prorank_jax.models.lora import combine
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import RewardFunction, is_correct, is_formatted
from prorank_jax.rollouts import (
    AnswerLogits,
    choose_greedily,
    close_completions,
    completion_mask,
    end_some_after_answer,
    log_probs_of,
    replay_logits,
    sample_completions,
)
from prorank_jax.scoring import relevance_scores
from prorank_jax.sharding import batch_sharding, logical_axes, logical_rules, replicated, state_shardings
from prorank_jax.train_state import (
    Policy,
    all_params,
    apply_gradients,
    initial_policy,
    reference_shardings,
    train_state_shardings,
)
from prorank_jax.types import Batch, Params, Rollout, TrainState

Metrics = dict[str, jax.Array]
GrpoStep = Callable[[TrainState, Params | None, Batch, jax.Array], tuple[TrainState, Metrics, jax.Array]]


def _sample_rollout(
    params: Params,
    model: Transformer,
    batch: Batch,
    key: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> tuple[Rollout, AnswerLogits]:
    """Samples and rewards a group for each prompt; gradients flow through the logits only."""

    def explore(tokens: jax.Array, previous: jax.Array) -> jax.Array:
        return end_some_after_answer(tokens, previous, answers, options.forced_ends)

    tokens, logits = sample_completions(
        model,
        params,
        batch,
        key,
        group=options.group_size,
        new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        edit=explore,
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


def _rollout_metrics(rollout: Rollout, batch: Batch, answers: AnswerTokens) -> Metrics:
    return {
        "reward": rollout.rewards.mean(),
        "format_rate": is_formatted(rollout.tokens, answers).mean(),
        "accuracy": is_correct(rollout.tokens, batch.labels, answers).mean(),
        "tied_groups": rollout.tied.mean(),
    }


def _loss_on_policy(
    params: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    key: jax.Array,
    reward: RewardFunction,
    answers: AnswerTokens,
    options: GrpoOptions,
) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
    """Samples, rewards and differentiates in one pass (deviation 2 of `grpo`)."""
    rollout, logits = _sample_rollout(params, model, batch, key, reward, answers, options)
    return _loss_on_samples(params, model, reference, batch, rollout, answers, options, logits)


def _loss_on_samples(
    params: Params,
    model: Transformer,
    reference: Policy | None,
    batch: Batch,
    rollout: Rollout,
    answers: AnswerTokens,
    options: GrpoOptions,
    logits: AnswerLogits | None = None,
) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
    if logits is None:
        logits = replay_logits(model, params, batch, rollout.tokens, options.temperature)
    reference_logits = None
    if reference is not None:
        reference_logits = replay_logits(*reference, batch, rollout.tokens, options.temperature)
        reference_logits = jax.lax.stop_gradient(reference_logits)
    loss, metrics = policy_loss(logits, rollout, answers, options, reference_logits)
    return loss, (metrics, rollout)


def make_grpo_step(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    options: GrpoOptions,
    answers: AnswerTokens,
    reward: RewardFunction,
    mesh: Mesh,
) -> GrpoStep:
    """Builds the jitted `(state, reference, batch, key) → (state, metrics, completions [B, G, L])`.

    `reference` holds the parameters of the frozen initial policy; see `initial_policy` for when it is
    None. The state is donated.
    """
    uses_reference = options.kl_coefficient > 0
    rules = logical_rules(abstract_params(model), mesh)

    def several_updates(
        state: TrainState, reference: Policy | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, Rollout]:
        rollout, _ = _sample_rollout(all_params(state), model, batch, key, reward, answers, options)

        def once(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            def loss(trained: Params) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
                params = combine(state.frozen, trained)
                return _loss_on_samples(params, model, reference, batch, rollout, answers, options)

            (_, (metrics, _)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
            state = apply_gradients(state, gradients, optimizer)
            return state, metrics | {"grad_norm": optax.global_norm(gradients)}

        state, metrics = jax.lax.scan(once, state, length=options.updates_per_rollout)
        return state, jax.tree.map(jnp.mean, metrics), rollout

    def one_update(
        state: TrainState, reference: Policy | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, Rollout]:
        def loss(trained: Params) -> tuple[jax.Array, tuple[Metrics, Rollout]]:
            params = combine(state.frozen, trained)
            return _loss_on_policy(params, model, reference, batch, key, reward, answers, options)

        (_, (metrics, rollout)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics |= {"grad_norm": optax.global_norm(gradients)}
        return apply_gradients(state, gradients, optimizer), metrics, rollout

    def step(
        state: TrainState, reference: Params | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, jax.Array]:
        policy = initial_policy(model, state, reference) if uses_reference else None
        with logical_axes(rules, mesh):
            rate = schedule(state.step * options.updates_per_rollout)
            run = one_update if options.updates_per_rollout == 1 else several_updates
            state, metrics, rollout = run(state, policy, batch, key)
        metrics |= _rollout_metrics(rollout, batch, answers) | {"learning_rate": jnp.asarray(rate)}
        return dataclasses.replace(state, step=state.step + 1), metrics, rollout.tokens

    shardings = train_state_shardings(model, optimizer, mesh)
    frozen = reference_shardings(model, mesh) if uses_reference else None
    rows, whole = batch_sharding(mesh), replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(shardings, frozen, rows, whole),
        out_shardings=(shardings, whole, whole),
        donate_argnums=0,
    )


def make_probe_step(
    model: Transformer, answers: AnswerTokens, new_tokens: int, mesh: Mesh
) -> Callable[[Params, Batch], tuple[jax.Array, jax.Array]]:
    """Builds the jitted `(params, batch) → (scores [B] float32, greedy completions [B, L] int32)`."""
    abstract = abstract_params(model)
    rules = logical_rules(abstract, mesh)

    def step(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        with logical_axes(rules, mesh):
            tokens, logits = sample_completions(
                model,
                params,
                batch,
                jax.random.key(0),
                group=1,
                new_tokens=new_tokens,
                choose=choose_greedily,
            )
            scores = logits.first[:, answers.one] - logits.first[:, answers.zero]
        return scores, close_completions(tokens, answers.end)[:, 0]

    params = state_shardings(abstract, mesh)
    whole = replicated(mesh)
    return jax.jit(step, in_shardings=(params, batch_sharding(mesh)), out_shardings=(whole, whole))


def make_score_step(
    model: Transformer, answers: AnswerTokens, mesh: Mesh
) -> Callable[[Params, Batch], jax.Array]:
    """Builds the jitted `(params, batch) → scores [B] float32`."""
    abstract = abstract_params(model)
    rules = logical_rules(abstract, mesh)

    def step(params: Params, batch: Batch) -> jax.Array:
        with logical_axes(rules, mesh):
            return relevance_scores(model, params, batch, answers)

    params = state_shardings(abstract, mesh)
    return jax.jit(step, in_shardings=(params, batch_sharding(mesh)), out_shardings=replicated(mesh))
