"""The jitted steps of stage 1, the probe and scoring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prorank_jax.accumulation import map_parts, sum_parts
from prorank_jax.completions import close_completions
from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import loss_totals
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.policy_gradient import (
    Metrics,
    on_policy_gradients,
    replayed_gradients,
    rollout_metrics,
    sample_rollout,
)
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import RewardFunction
from prorank_jax.rollouts import choose_greedily, sample_completions, uniform_draws
from prorank_jax.scoring import packed_scores, relevance_scores
from prorank_jax.sharding import (
    AnyBatch,
    batch_sharding,
    logical_axes,
    logical_rules,
    replicated,
    state_shardings,
)
from prorank_jax.train_state import (
    Policy,
    all_params,
    apply_gradients,
    initial_policy,
    reference_shardings,
    train_state_shardings,
    updates_made,
)
from prorank_jax.types import Batch, PackedBatch, Params, Rollout, TrainState

GrpoStep = Callable[[TrainState, Params | None, Batch, jax.Array], tuple[TrainState, Metrics, jax.Array]]


def make_grpo_step(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    options: GrpoOptions,
    answers: AnswerTokens,
    reward: RewardFunction,
    mesh: Mesh,
    accumulation: int = 1,
) -> GrpoStep:
    """Builds the jitted `(state, reference, batch, key) → (state, metrics, completions [B, G, L])`.

    `reference` holds the parameters of the frozen initial policy; see `initial_policy` for when it is
    None. The state is donated.

    Args:
        accumulation: parts of the batch. What an average divides by is known only when all of the batch is
            sampled, so more than one part costs a forward pass: every part is sampled first, then each is
            replayed and their gradients summed. Completions, loss and gradients are those of one part, up
            to rounding.
    """
    uses_reference = options.kl_coefficient > 0
    rules = logical_rules(abstract_params(model), mesh)
    shardings = train_state_shardings(model, optimizer, mesh)
    on_policy = options.updates_per_rollout == 1

    def draws(batch: Batch, key: jax.Array) -> jax.Array:
        return uniform_draws(key, batch.tokens.shape[0], options.group_size, options.max_new_tokens)

    def replayed_update(
        state: TrainState, reference: Policy | None, batch: Batch, rollout: Rollout
    ) -> tuple[TrainState, Metrics]:
        totals = loss_totals(rollout, answers, options)

        def of_part(part: tuple[Batch, Rollout]) -> tuple[Params, Metrics]:
            (_, metrics), gradients = replayed_gradients(
                state.params,
                state.frozen,
                model,
                reference,
                *part,
                answers,
                options,
                totals=totals,
                on_policy=on_policy,
            )
            return jax.lax.with_sharding_constraint(gradients, shardings.params), metrics

        gradients, metrics = sum_parts(of_part, (batch, rollout), accumulation)
        state, update = apply_gradients(state, gradients, metrics["loss"], optimizer)
        return state, metrics | update

    def replayed_updates(
        state: TrainState, reference: Policy | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, Rollout]:
        params = all_params(state)

        def sample(part: tuple[Batch, jax.Array]) -> Rollout:
            return sample_rollout(params, model, *part, reward, answers, options)

        rollout = map_parts(sample, (batch, draws(batch, key)), accumulation)

        def once(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return replayed_update(state, reference, batch, rollout)

        state, metrics = jax.lax.scan(once, state, length=options.updates_per_rollout)
        return state, jax.tree.map(jnp.mean, metrics), rollout

    def fused_update(
        state: TrainState, reference: Policy | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, Rollout]:
        (total, (metrics, rollout)), gradients = on_policy_gradients(
            state.params, state.frozen, model, reference, batch, draws(batch, key), reward, answers, options
        )
        state, update = apply_gradients(state, gradients, total, optimizer)
        return state, metrics | update, rollout

    def step(
        state: TrainState, reference: Params | None, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics, jax.Array]:
        policy = initial_policy(model, state, reference) if uses_reference else None
        with logical_axes(rules, mesh):
            rate = schedule(updates_made(state, options.updates_per_rollout))
            run = fused_update if on_policy and accumulation == 1 else replayed_updates
            state, metrics, rollout = run(state, policy, batch, key)
            metrics |= rollout_metrics(rollout, batch, answers, options)
            metrics["learning_rate"] = jnp.asarray(rate)
        return dataclasses.replace(state, step=state.step + 1), metrics, rollout.tokens

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
                jnp.zeros((batch.tokens.shape[0], 1, new_tokens)),
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

    def scores(params: Params, batch: Batch) -> jax.Array:
        return relevance_scores(model, params, batch, answers)

    return _jit_scores(scores, model, mesh)


def make_packed_score_step(
    model: Transformer, answers: AnswerTokens, mesh: Mesh
) -> Callable[[Params, PackedBatch], jax.Array]:
    """Builds the jitted `(params, batch) → scores [R, E] float32` behind each segment of packed rows."""

    def scores(params: Params, batch: PackedBatch) -> jax.Array:
        return packed_scores(model, params, batch, answers)

    return _jit_scores(scores, model, mesh)


def _jit_scores(
    scores: Callable[[Params, AnyBatch], jax.Array], model: Transformer, mesh: Mesh
) -> Callable[[Params, AnyBatch], jax.Array]:
    abstract = abstract_params(model)
    rules = logical_rules(abstract, mesh)

    def step(params: Params, batch: AnyBatch) -> jax.Array:
        with logical_axes(rules, mesh):
            return scores(params, batch)

    params = state_shardings(abstract, mesh)
    return jax.jit(step, in_shardings=(params, batch_sharding(mesh)), out_shardings=replicated(mesh))
