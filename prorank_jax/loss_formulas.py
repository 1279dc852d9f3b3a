"""The formulas of the ranking losses: a value and a weight for each list, float32 [Q].

Weights are functions of the labels alone: 0 for a list that says nothing, else at least 1. Values hold for
lists of weight above 0 only, and need finite scores everywhere; `ranking_losses.LossFunction` sees to both.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import optax

from prorank_jax.types import Array


@flax.struct.dataclass
class ListLabels:
    """What is known about the documents of Q lists of K places each.

    Attributes:
        grades: [Q, K] float32 judgements, 0 or below not relevant; anything where masked.
        teacher: [Q, K] float32 teacher scores; NaN where there is none.
        mask: [Q, K] bool, True for a real document of the query's own list.
        in_batch: [Q, K] bool, True for a document of another query, a negative of `info_nce` only;
            `mask` is False there.
    """

    grades: Array
    teacher: Array
    mask: Array
    in_batch: Array


def _positive_grades(labels: ListLabels) -> jax.Array:
    """Grades of at least 0, and 0 where masked: [Q, K] float32."""
    return jnp.where(labels.mask, jnp.maximum(labels.grades, 0.0), 0.0).astype(jnp.float32)


def _has_teacher(labels: ListLabels) -> jax.Array:
    return jnp.logical_and(labels.mask, jnp.isfinite(labels.teacher))


def _as_weights(counts: Array) -> jax.Array:
    return jnp.asarray(counts, jnp.float32)


def _shares(amounts: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Amounts of at least 0 divided by their sum; all 0 where the sum is."""
    total = amounts.sum(axis=axis, keepdims=True)
    return amounts / jnp.where(total > 0, total, 1.0)


def grades_differ(labels: ListLabels) -> jax.Array:
    """1 for a list with documents of different grades: [Q]."""
    grades = _positive_grades(labels)
    lowest = jnp.where(labels.mask, grades, jnp.inf).min(axis=-1)
    return _as_weights(grades.max(axis=-1) > lowest)


def two_teacher_scores(labels: ListLabels) -> jax.Array:
    """1 for a list in which the teacher scored two documents or more: [Q]."""
    return _as_weights(_has_teacher(labels).sum(axis=-1) >= 2)


def documents(labels: ListLabels) -> jax.Array:
    """The number of real documents of each list: [Q]."""
    return _as_weights(labels.mask.sum(axis=-1))


def listwise(scores: jax.Array, labels: ListLabels) -> jax.Array:
    """Softmax cross entropy with the targets g_i / Σ g (Bruch et al. 2019, ICTIR).

    ListNet's top-one probability (Cao et al. 2007) of the grades with φ(g) = g: linear as the gain of
    nDCG in trec_eval, and 0 for what is not relevant.
    """
    targets = _shares(_positive_grades(labels))
    return optax.losses.ranking_softmax_loss(scores, targets, where=labels.mask, reduce_fn=None)


def listwise_teacher(scores: jax.Array, labels: ListLabels) -> jax.Array:
    """ListNet (Cao et al. 2007): cross entropy of softmax(scores) to softmax(teacher).

    Over the documents that have a teacher score, which should be on the scale of logits.
    """
    scored = _has_teacher(labels)
    targets = jax.nn.softmax(jnp.where(scored, labels.teacher, 0.0), axis=-1, where=scored)
    return optax.losses.ranking_softmax_loss(scores, targets, where=scored, reduce_fn=None)


def margin_mse(scores: jax.Array, labels: ListLabels) -> jax.Array:
    """Mean of ((s_i − s_j) − (t_i − t_j))² over all pairs with teacher scores (arXiv 2010.02666).

    The paper's triples of a query, a relevant and another document are lists of two. In longer lists the
    margin between any two documents is learned: a teacher's scores tell them apart without judgements.
    The mean over the pairs of n numbers d = s − t is 2 Σ (d_i − mean d)² / (n − 1).
    """
    scored = _has_teacher(labels)
    count = scored.sum(axis=-1)
    excess = jnp.where(scored, scores - jnp.where(scored, labels.teacher, 0.0), 0.0)
    centre = excess.sum(axis=-1) / jnp.maximum(count, 1)
    squares = jnp.where(scored, (excess - centre[:, None]) ** 2, 0.0)
    return 2 * squares.sum(axis=-1) / jnp.maximum(count - 1, 1)


def _differences(values: jax.Array) -> jax.Array:
    """values_i − values_j: [Q, K] → [Q, K, K]."""
    return values[:, :, None] - values[:, None, :]


def _grade_gaps(labels: ListLabels) -> jax.Array:
    """max(g_i − g_j, 0) of the real pairs: [Q, K, K]."""
    real = labels.mask[:, :, None] & labels.mask[:, None, :]
    return jnp.where(real, jnp.maximum(_differences(_positive_grades(labels)), 0.0), 0.0)


def pairwise(scores: jax.Array, labels: ListLabels) -> jax.Array:
    """−log sigmoid(s_i − s_j) averaged over pairs g_i > g_j with the weights g_i − g_j.

    RankNet (Burges et al. 2005) with the target probability 1.
    """
    shares = _shares(_grade_gaps(labels), axis=(1, 2))
    return (shares * jax.nn.softplus(-_differences(scores))).sum(axis=(1, 2))


def preference(gains: jax.Array, labels: ListLabels, *, beta: float) -> jax.Array:
    """−log sigmoid(β((s_i − r_i) − (s_j − r_j))) averaged over pairs g_i > g_j.

    DPO (arXiv 2305.18290, eq. 7). `gains` are s − r, scores beyond the reference's. The score is the log-odds
    of the answer `1`, so β(s − r) takes the place of the implicit reward β log(π / π_ref).
    """
    shares = _shares(_as_weights(_grade_gaps(labels) > 0), axis=(1, 2))
    return (shares * jax.nn.softplus(-beta * _differences(gains))).sum(axis=(1, 2))


def pointwise(scores: jax.Array, labels: ListLabels, *, top_grade: float, soft_label: str) -> jax.Array:
    """Binary cross entropy of sigmoid(s) to a label in [0, 1], averaged over the documents.

    The list's weight is their number: every document of a batch counts alike. The label is a grade over
    `top_grade`, or the teacher's word where it has one: a probability (`teacher`) or the sigmoid of a score
    (`teacher_logit`).
    """
    loss = optax.losses.sigmoid_binary_cross_entropy(scores, _soft_labels(labels, top_grade, soft_label))
    return (_shares(_as_weights(labels.mask)) * loss).sum(axis=-1)


def _soft_labels(labels: ListLabels, top_grade: float, soft_label: str) -> jax.Array:
    by_grade = jnp.clip(_positive_grades(labels) / top_grade, 0.0, 1.0)
    if soft_label == "grade":
        return by_grade
    scored = _has_teacher(labels)
    teacher = jnp.where(scored, labels.teacher, 0.0)
    by_teacher = jax.nn.sigmoid(teacher) if soft_label == "teacher_logit" else teacher
    return jnp.where(scored, jnp.clip(by_teacher, 0.0, 1.0), by_grade)


def _relevant_and_not(labels: ListLabels, relevant_grade: float) -> tuple[jax.Array, jax.Array]:
    relevant = jnp.logical_and(labels.mask, _positive_grades(labels) >= relevant_grade)
    return relevant, jnp.logical_or(labels.mask, labels.in_batch) & ~relevant


def contrast_exists(labels: ListLabels, *, relevant_grade: float) -> jax.Array:
    """1 for a list with a relevant document and a negative, its own or a borrowed one: [Q]."""
    relevant, others = _relevant_and_not(labels, relevant_grade)
    return _as_weights(relevant.any(axis=-1) & others.any(axis=-1))


def info_nce(scores: jax.Array, labels: ListLabels, *, relevant_grade: float) -> jax.Array:
    """−log(e^{s_i} / (e^{s_i} + Σ_negatives e^{s_j})), averaged over the relevant i.

    InfoNCE (arXiv 1807.03748, eq. 4). Negatives are the documents below `relevant_grade` and those borrowed
    from other queries; the other relevant documents are left out of the sum.
    """
    relevant, others = _relevant_and_not(labels, relevant_grade)
    against = jax.nn.logsumexp(scores, axis=-1, keepdims=True, where=others)
    return (_shares(_as_weights(relevant)) * jax.nn.softplus(against - scores)).sum(axis=-1)
