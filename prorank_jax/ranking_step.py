"""The jitted step of stage 2: scores lists of graded documents and learns from their order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prorank_jax.accumulation import sum_parts
from prorank_jax.grpo import exact_kl
from prorank_jax.models.lora import combine
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import (
    ListLabels,
    LossFunction,
    combined_loss,
    needs_reference,
    weight_totals,
)
from prorank_jax.scoring import answered_list_hidden, list_states, score_from_hidden
from prorank_jax.sharding import batch_sharding, logical_axes, logical_rules, replicated
from prorank_jax.train_state import (
    Policy,
    apply_gradients,
    initial_policy,
    reference_shardings,
    train_state_shardings,
    updates_made,
)
from prorank_jax.types import Array, ListBatch, Params, TrainState

Metrics = dict[str, jax.Array]
RankingStep = Callable[[TrainState, Params | None, ListBatch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class RankingObjective:
    """What stage 2 minimises: a weighted sum of losses, and KL to the initial policy.

    Attributes:
        losses: every loss there is, by name.
        weights: of those that are used.
        kl_coefficient: weight of the mean KL(policy ‖ initial policy) over the vocabulary at the answer.
        format_coefficient: weight of the mean `format_loss`.
        relevant_grade: lowest grade whose answer is `1`.
    """

    losses: Mapping[str, LossFunction]
    weights: Mapping[str, float]
    kl_coefficient: float = 0.0
    format_coefficient: float = 0.0
    relevant_grade: float = 1.0

    @property
    def uses_reference(self) -> bool:
        """Whether the initial policy is needed."""
        return self.kl_coefficient > 0 or needs_reference(self.weights)


def list_labels(batch: ListBatch) -> ListLabels:
    """What the losses read of a batch."""
    return ListLabels(
        grades=jnp.asarray(batch.grades),
        teacher=jnp.asarray(batch.teacher),
        mask=jnp.asarray(batch.mask),
        in_batch=jnp.asarray(batch.in_batch),
    )


def list_ndcg(scores: Array, grades: Array, mask: Array) -> jax.Array:
    """nDCG of the order of each list by score, gains linear in the grade: [Q, K] → [Q] float32.

    DCG = Σ grade / log2(rank + 1) (Järvelin and Kekäläinen 2002), over the ideal order's; 0 without a
    relevant document. Equal scores share the mean of their places: it is the mean over all orders that
    the scores allow, whichever way a list is laid out. NaN where a real document's score is.
    """
    gains = jnp.asarray(jnp.where(mask, jnp.maximum(grades, 0.0), 0.0))
    mine, others = scores[:, :, None], scores[:, None, :]  # [Q, K, 1] and [Q, 1, K]
    above = (mask[:, None, :] & (others > mine)).sum(axis=-1)  # [Q, K]
    equal = jnp.maximum((mask[:, None, :] & (others == mine)).sum(axis=-1), 1)
    places = jnp.arange(scores.shape[-1])
    discounts = 1 / jnp.log2(places + 2.0)
    shared = (places >= above[..., None]) & (places < (above + equal)[..., None])  # [Q, K, K]
    dcg = (gains * (shared * discounts).sum(axis=-1) / equal).sum(axis=-1)
    ideal = (-jnp.sort(-gains, axis=-1) * discounts).sum(axis=-1)
    unknown = (mask & jnp.isnan(scores)).any(axis=-1)
    return jnp.where(unknown, jnp.nan, dcg / jnp.where(ideal > 0, ideal, 1.0))


def answer_surprise(logits: jax.Array, answers: AnswerTokens) -> jax.Array:
    """−log(p(`0`) + p(`1`)) of each next-token distribution, in nats: [..., V] → [...]."""
    either = jnp.logaddexp(logits[..., answers.zero], logits[..., answers.one])
    return jax.nn.logsumexp(logits, axis=-1) - either


def format_loss(logits: jax.Array, after: jax.Array, answers: AnswerTokens) -> jax.Array:
    """−log(p(`0`) + p(`1`)) − log p(end of turn | answer), in nats: [..., V] twice → [...].

    What a well-formed answer costs, whichever of the two it is: the gradient of the first part is nothing
    once one of them is sure to come, and the second does not touch the score's logits.

    Args:
        logits: at the answer.
        after: behind the answer.
    """
    ending = jax.nn.logsumexp(after, axis=-1) - after[..., answers.end]
    return answer_surprise(logits, answers) + ending


def _label_answers(grades: Array, relevant_grade: float, answers: AnswerTokens) -> jax.Array:
    """The answer token that each grade asks for: [Q, K] int32."""
    return jnp.where(grades >= relevant_grade, answers.one, answers.zero).astype(jnp.int32)


def _part_loss(
    params: Params,
    model: Transformer,
    reference: Policy | None,
    part: ListBatch,
    totals: Mapping[str, jax.Array],
    documents: jax.Array,
    ranked: jax.Array,
    objective: RankingObjective,
    answers: AnswerTokens,
) -> tuple[jax.Array, Metrics]:
    """This part's share of the whole batch's loss and metrics: parts add up.

    Args:
        totals, documents, ranked: of the whole batch; `ranked` are its lists with a relevant document.
    """
    labels = list_labels(part)
    if objective.format_coefficient > 0:
        given = _label_answers(labels.grades, objective.relevant_grade, answers)
        hidden, answered = answered_list_hidden(model, params, part, given)
    else:
        hidden, answered = list_states(model, params, part, trains=True), None
    scores = score_from_hidden(model, params, hidden, answers)
    initial = None if reference is None else list_states(*reference, part)
    initial_scores = None
    if reference is not None and initial is not None:
        initial_scores = jax.lax.stop_gradient(score_from_hidden(*reference, initial, answers))
    loss, metrics = combined_loss(
        scores, initial_scores, labels, objective.weights, totals, losses=objective.losses
    )
    if objective.kl_coefficient > 0 or objective.format_coefficient > 0:
        logits: Any = model.apply({"params": params}, hidden, method="answer_logits")
    if answered is not None:
        after: Any = model.apply({"params": params}, answered, method="answer_logits")
        missed = format_loss(logits, after, answers)  # [Q, K]
        metrics["format_loss"] = (missed * part.mask).sum() / documents
        loss = loss + objective.format_coefficient * metrics["format_loss"]
    if objective.kl_coefficient > 0 and reference is not None:
        start: Any = reference.model.apply({"params": reference.params}, initial, method="answer_logits")
        divergence = exact_kl(logits, jax.lax.stop_gradient(start))  # [Q, K]
        metrics["kl"] = (divergence * part.mask).sum() / documents
        loss = loss + objective.kl_coefficient * metrics["kl"]
    real_scores = jnp.where(part.mask, scores, 0.0)
    metrics["ndcg"] = list_ndcg(scores, labels.grades, labels.mask).sum() / ranked
    metrics["score"] = real_scores.sum() / documents
    metrics["score_square"] = jnp.square(real_scores).sum() / documents
    return loss, metrics | {"loss": loss}


def make_ranking_step(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    objective: RankingObjective,
    accumulation: int,
    answers: AnswerTokens,
    mesh: Mesh,
) -> RankingStep:
    """Builds the jitted `(state, reference, batch) → (state, metrics)`; the state is donated.

    Gradients of `accumulation` parts of the batch are summed before the one update. Every average is over
    the whole batch, so the parts give what the batch at once would give.

    Args:
        objective: reference parameters are an argument of the step exactly if it needs them and the model
            has no low-rank factors; see `initial_policy`.
    """
    names = tuple(objective.weights)
    rules = logical_rules(abstract_params(model), mesh)
    shardings = train_state_shardings(model, optimizer, mesh)

    def gradient(state: TrainState, policy: Policy | None, batch: ListBatch) -> tuple[Params, Metrics]:
        totals = weight_totals(list_labels(batch), names, losses=objective.losses)
        documents = jnp.maximum(batch.mask.sum(), 1).astype(jnp.float32)
        # Where only a teacher teaches, a list may hold no relevant document, and then no order is right.
        has_relevant = (batch.mask & (batch.grades > 0)).any(axis=-1)
        ranked = jnp.maximum(has_relevant.sum(), 1).astype(jnp.float32)

        def of_part(part: ListBatch) -> tuple[Params, Metrics]:
            def loss(trained: Params) -> tuple[jax.Array, Metrics]:
                params = combine(state.frozen, trained)
                return _part_loss(params, model, policy, part, totals, documents, ranked, objective, answers)

            (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
            return jax.lax.with_sharding_constraint(gradients, shardings.params), metrics

        return sum_parts(of_part, batch, accumulation)

    def step(state: TrainState, reference: Params | None, batch: ListBatch) -> tuple[TrainState, Metrics]:
        policy = initial_policy(model, state, reference) if objective.uses_reference else None
        with logical_axes(rules, mesh):
            rate = schedule(updates_made(state, 1))
            gradients, metrics = gradient(state, policy, batch)
            state, update = apply_gradients(state, gradients, metrics["loss"], optimizer)
        variance = metrics.pop("score_square") - metrics["score"] ** 2
        metrics["score_deviation"] = jnp.sqrt(jnp.maximum(variance, 0.0))
        metrics |= update | {"learning_rate": jnp.asarray(rate)}
        return dataclasses.replace(state, step=state.step + 1), metrics

    frozen = reference_shardings(model, mesh) if objective.uses_reference else None
    rows, whole = batch_sharding(mesh), replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(shardings, frozen, rows),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )
