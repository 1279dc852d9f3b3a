"""Losses over lists of scored documents, chosen by name and combined with weights.

A loss gives each list of a batch a value and a weight, and is

    Σ_q value_q · weight_q / total,    total = Σ_q weight_q over the whole batch (`weight_totals`).

Weights depend on labels alone. Parts of a batch that share the totals of all of it therefore add up to its
loss and gradient, however it is divided.

A list that says nothing about a loss has weight 0 there and adds 0 to loss and gradient, whatever its
scores: all grades equal for those that compare grades, no relevant document or no negative for `info_nce`,
fewer than two teacher scores for those that need a teacher, no document at all for `pointwise`. Grades
below 0 count as 0, as in nDCG.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from prorank_jax import loss_formulas
from prorank_jax.loss_formulas import ListLabels
from prorank_jax.stage_options import SOFT_LABELS
from prorank_jax.types import Array

__all__ = [
    "LOSSES",
    "ListLabels",
    "LossFunction",
    "LossOptions",
    "combined_loss",
    "learns_level",
    "list_weights",
    "make_losses",
    "needs_reference",
    "needs_teacher",
    "parse_losses",
    "reads_teacher",
    "weight_totals",
]


@dataclass(frozen=True)
class LossOptions:
    """What the losses take from the collection and the teacher, the same for all lists."""

    relevant_grade: float = 1.0
    """A document of this grade or higher is relevant to `info_nce`."""
    top_grade: float = 1.0
    """The largest grade of the collection: the label 1 of `pointwise`."""
    soft_label: str = "grade"
    """Label of `pointwise`: `grade`; `teacher` where its scores are probabilities; `teacher_logit`."""
    beta: float = 0.1
    """Sharpness of `preference`: the smaller, the further scores move from the reference."""

    def __post_init__(self) -> None:
        for name in ("relevant_grade", "top_grade", "beta"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: must be a finite number above 0")
        if self.soft_label not in SOFT_LABELS:
            raise ValueError(f"soft_label={self.soft_label!r}: choose one of {', '.join(SOFT_LABELS)}")


@dataclass(frozen=True)
class LossFunction:
    """`(scores, reference, labels) → (values [Q], weights [Q])`, float32.

    Attributes:
        weights: labels → [Q], 0 for a list that says nothing, else at least 1.
        values: scores and labels → [Q], for lists of weight above 0.
        uses_reference: `values` gets the scores minus those of the frozen model.
        uses_teacher: it says nothing without teacher scores.
        uses_in_batch: documents of other queries count.
        uses_level: a score counts by itself, not only its differences to others of the list.
    """

    weights: Callable[[ListLabels], jax.Array]
    values: Callable[[jax.Array, ListLabels], jax.Array]
    uses_reference: bool = False
    uses_teacher: bool = False
    uses_in_batch: bool = False
    uses_level: bool = False

    def __call__(
        self, scores: Array, reference: Array | None, labels: ListLabels
    ) -> tuple[jax.Array, jax.Array]:
        """Value and weight of each list; no gradient flows into the reference.

        Args:
            scores: [Q, K]; anything where the loss counts no document.
            reference: [Q, K] scores of the frozen model, or None where no reference is used.

        Raises:
            ValueError: the reference is needed and None, or shapes differ.
        """
        scores = jnp.asarray(scores, jnp.float32)
        _require_shape("scores", scores, labels)
        if self.uses_reference:
            if reference is None:
                raise ValueError("reference=None: this loss compares with a frozen model; give its scores")
            _require_shape("reference", reference, labels)
            scores = scores - jax.lax.stop_gradient(jnp.asarray(reference, jnp.float32))
        weights = self.weights(labels)
        counts = weights > 0
        real = labels.mask | labels.in_batch if self.uses_in_batch else labels.mask
        # Both before and after: a NaN that is only masked afterwards still spoils the gradient.
        values = self.values(jnp.where(real & counts[:, None], scores, 0.0), labels)
        return jnp.where(counts, values, 0.0), weights


def _require_shape(name: str, scores: Array, labels: ListLabels) -> None:
    if scores.shape != labels.mask.shape:
        raise ValueError(
            f"{name}: shape {scores.shape} for labels of shape {labels.mask.shape}; give one score a place"
        )


def make_losses(options: LossOptions) -> Mapping[str, LossFunction]:
    """Every loss by its name, for one collection and teacher."""
    formulas, relevant = loss_formulas, options.relevant_grade
    return {
        "listwise": LossFunction(formulas.grades_differ, formulas.listwise),
        "pairwise": LossFunction(formulas.grades_differ, formulas.pairwise),
        "margin_mse": LossFunction(formulas.two_teacher_scores, formulas.margin_mse, uses_teacher=True),
        "pointwise": LossFunction(
            formulas.documents,
            partial(formulas.pointwise, top_grade=options.top_grade, soft_label=options.soft_label),
            uses_level=True,
        ),
        "info_nce": LossFunction(
            partial(formulas.contrast_exists, relevant_grade=relevant),
            partial(formulas.info_nce, relevant_grade=relevant),
            uses_in_batch=True,
        ),
        "preference": LossFunction(
            formulas.grades_differ, partial(formulas.preference, beta=options.beta), uses_reference=True
        ),
        "listwise_teacher": LossFunction(
            formulas.two_teacher_scores, formulas.listwise_teacher, uses_teacher=True
        ),
    }


LOSSES: Mapping[str, LossFunction] = make_losses(LossOptions())


def list_weights(name: str, labels: ListLabels, losses: Mapping[str, LossFunction] = LOSSES) -> jax.Array:
    """What each list counts in a loss: [Q] float32, 0 where it says nothing, from its labels alone."""
    return losses[name].weights(labels)


def weight_totals(
    labels: ListLabels, names: Iterable[str], losses: Mapping[str, LossFunction] = LOSSES
) -> dict[str, jax.Array]:
    """What each loss divides by: the sum of its weights over the lists of the whole batch, at least 1."""
    return {name: jnp.maximum(list_weights(name, labels, losses).sum(), 1.0) for name in names}


def combined_loss(
    scores: Array,
    reference: Array | None,
    labels: ListLabels,
    weights: Mapping[str, float],
    totals: Mapping[str, jax.Array],
    losses: Mapping[str, LossFunction] = LOSSES,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of losses, and each of them by itself, over a batch or a part of it.

    Args:
        scores: [Q, K].
        reference: [Q, K] scores of a frozen model, or None where no loss needs them.
        weights: the coefficient of each loss; one of 0 only reports its value.
        totals: of the whole batch, also where these lists are a part of it; see `weight_totals`.

    Returns:
        float32 scalars; those of the parts of a batch add up to those of the batch.

    Raises:
        ValueError: a loss needs the reference and it is None, or shapes differ.
    """
    loss, parts = jnp.zeros(()), {}
    for name, coefficient in weights.items():
        values, list_weight = losses[name](scores, reference, labels)
        parts[name] = (values * list_weight).sum() / totals[name]
        if coefficient != 0:
            loss = loss + coefficient * parts[name]
    return loss, parts


def needs_reference(weights: Iterable[str]) -> bool:
    """Whether one of these losses compares with the scores of a frozen model."""
    return any(LOSSES[name].uses_reference for name in weights)


def learns_level(weights: Mapping[str, float]) -> bool:
    """Whether scores of different queries become comparable: not where only differences in a list count."""
    return any(LOSSES[name].uses_level for name, weight in weights.items() if weight > 0)


def needs_teacher(weights: Iterable[str]) -> bool:
    """Whether one of these losses says nothing without teacher scores."""
    return any(LOSSES[name].uses_teacher for name in weights)


def reads_teacher(weights: Iterable[str], soft_labels: str) -> bool:
    """Whether one of these losses reads teacher scores, with such labels of `pointwise`."""
    names = list(weights)
    return needs_teacher(names) or ("pointwise" in names and soft_labels != "grade")


def parse_losses(text: str, field: str = "ranking.losses") -> dict[str, float]:
    """`"listwise=1, pointwise=0.5"` as `{"listwise": 1.0, "pointwise": 0.5}`; a bare name has weight 1.

    Raises:
        ValueError: no loss, an unknown one, one named twice, a weight that is no finite number of at least
            0, or only weights of 0.
    """
    weights: dict[str, float] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, weight = (part.strip() for part in entry.partition("="))
        if name not in LOSSES:
            close = difflib.get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(LOSSES)}"
            raise ValueError(f"{field}={text!r}: unknown loss {name!r}; {hint}")
        if name in weights:
            raise ValueError(f"{field}={text!r}: {name} is named twice; give it one weight")
        weights[name] = _parse_weight(weight if equals else "1", f"{field}={text!r}: {name}")
    if not any(weights.values()):
        raise ValueError(f"{field}={text!r}: no loss has a weight above 0; write e.g. listwise=1")
    return weights


def _parse_weight(text: str, place: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"{place} has the weight {text!r}; give a finite number of at least 0")
    return weight
