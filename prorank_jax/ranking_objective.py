"""What stage 2 minimises: the losses that a config names, with the labels that the examples have."""

from __future__ import annotations

import numpy as np

from prorank_jax.config import RankingOptions, RunConfig
from prorank_jax.corpora import own_scores
from prorank_jax.data import ExampleSet
from prorank_jax.ranking_losses import LOSSES, LossOptions, make_losses, parse_losses, reads_teacher
from prorank_jax.ranking_step import RankingObjective
from prorank_jax.source_names import names_embedding_file
from prorank_jax.teacher_run import read_scores, score_values


def check_losses(config: RunConfig) -> dict[str, float]:
    """The weight of each loss of stage 2; refuses what no examples could make work.

    Raises:
        ValueError: an unknown loss, one that lacks a teacher's scores, documents, a teacher or labels that
            none reads, or more borrowed documents than a batch has.
    """
    ranking, data = config.ranking, config.data
    weights = parse_losses(ranking.losses)
    if ranking.in_batch_negatives and not any(LOSSES[name].uses_in_batch for name in weights):
        readers = ", ".join(name for name, loss in LOSSES.items() if loss.uses_in_batch)
        raise ValueError(
            f"ranking.in_batch_negatives={ranking.in_batch_negatives}: none of ranking.losses="
            f"{ranking.losses!r} reads them; add {readers}, or set it to 0"
        )
    most = (config.train.batch_size - 1) * ranking.list_size
    if ranking.in_batch_negatives > most:
        raise ValueError(
            f"ranking.in_batch_negatives={ranking.in_batch_negatives}: the other lists of a batch have "
            f"{most} documents at most (train.batch_size={config.train.batch_size}, ranking.list_size="
            f"{ranking.list_size}); raise train.batch_size, or set it to {most}"
        )
    if not (data.teacher_scores or names_embedding_file(data.source)):
        _refuse_without_teacher(ranking, weights, data.source)
    if data.teacher_scores and not reads_teacher(weights, ranking.soft_labels):
        raise ValueError(
            f"data.teacher_scores={data.teacher_scores!r}: none of ranking.losses={ranking.losses!r} with "
            f"ranking.soft_labels={ranking.soft_labels!r} reads a teacher; add {_teacher_readers()}, or "
            f"leave {'it and data.teacher_depth' if data.teacher_depth else 'it'} out"
        )
    if ranking.soft_labels != RankingOptions.soft_labels and "pointwise" not in weights:
        raise ValueError(
            f"ranking.soft_labels={ranking.soft_labels!r}: are the labels of pointwise, which is not one of "
            f"ranking.losses={ranking.losses!r}; add it, or leave ranking.soft_labels out"
        )
    return weights


def check_scores(config: RunConfig) -> None:
    """`check_losses`, which also reads the scores that the losses need, but looks at no documents.

    A teacher has one scale: the labels must fit all scores of its file, those too that no example has.

    Raises:
        ValueError: as `check_losses`, there are no scores, or they cannot be labels.
    """
    ranking, data = config.ranking, config.data
    weights = check_losses(config)
    if not reads_teacher(weights, ranking.soft_labels):
        return
    if data.teacher_scores and ranking.soft_labels == RankingOptions.soft_labels:
        return  # such a file holds scores, and they may have any scale
    teacher = read_scores(data)
    scores = own_scores(data.source, data.split, data) if teacher is None else score_values(teacher)
    if not scores:
        _refuse_without_teacher(ranking, weights, f"{data.source} ({data.split})")
    _check_labels(ranking, np.array(scores, np.float32))


def _teacher_readers() -> str:
    by_themselves = ", ".join(name for name, loss in LOSSES.items() if loss.uses_teacher)
    return f"{by_themselves}, or pointwise with ranking.soft_labels=teacher or teacher_logit"


def _refuse_without_teacher(ranking: RankingOptions, weights: dict[str, float], name: str) -> None:
    """For examples that have no teacher's scores."""
    if reads_teacher(weights, ranking.soft_labels):
        raise ValueError(
            f"ranking.losses={ranking.losses!r}, ranking.soft_labels={ranking.soft_labels!r}: needs teacher "
            f"scores, and {name} has none: name a file as data.teacher_scores, or a .jsonl with "
            "pos_scores and neg_scores, or with the score of each pair"
        )


def unread_scores(config: RunConfig, scores: np.ndarray) -> str:
    """Tells that examples have a teacher's scores ([n], NaN: none) that no loss of stage 2 reads; else "".

    Files of training examples often bring some: they are no mistake.
    """
    ranking = config.ranking
    known = int(np.isfinite(scores).sum())
    if not known or reads_teacher(parse_losses(ranking.losses), ranking.soft_labels):
        return ""
    return (
        f"{known} of {len(scores)} pairs have a teacher's score, which none of ranking.losses="
        f"{ranking.losses!r} reads; to learn from them, add {_teacher_readers()}"
    )


def small_margins(config: RunConfig, scores: np.ndarray) -> str:
    """Tells that losses which take a teacher's scores ([n], NaN: none) for logits get probabilities; else "".

    They work, and many teachers give no other scores; but no document can be more than 1 ahead.
    """
    weights = parse_losses(config.ranking.losses)
    readers = [name for name, weight in weights.items() if weight > 0 and LOSSES[name].uses_teacher]
    known = scores[np.isfinite(scores)]
    if not readers or not _look_like_probabilities(known):
        return ""
    return (
        f"the teacher's scores go from {known.min():.4g} to {known.max():.4g}, as probabilities do, and are "
        f"read as logits by {' and '.join(readers)}: no document is more than 1 ahead of another; give the "
        "teacher's logits, or add pointwise with ranking.soft_labels=teacher"
    )


def _look_like_probabilities(known: np.ndarray) -> bool:
    return len(known) > 0 and bool(known.min() >= 0 and known.max() <= 1)


def _check_labels(ranking: RankingOptions, known: np.ndarray) -> None:
    """Refuses labels that a teacher's scores ([n] float32, finite) cannot be."""
    if ranking.soft_labels == "teacher" and len(known) and not _look_like_probabilities(known):
        raise ValueError(
            f"ranking.soft_labels='teacher': the teacher's scores go from {known.min():.4g} to "
            f"{known.max():.4g}, not from 0 to 1; choose teacher_logit, or grade"
        )
    if ranking.soft_labels == "teacher_logit" and _look_like_probabilities(known):
        raise ValueError(
            f"ranking.soft_labels='teacher_logit': the teacher's scores go from {known.min():.4g} to "
            f"{known.max():.4g}, as probabilities do, and each would be a label of 0.5 or higher; choose "
            "teacher, or give the teacher's logits"
        )


def make_objective(config: RunConfig, examples: ExampleSet) -> RankingObjective:
    """What stage 2 minimises on these examples.

    Raises:
        ValueError: as `check_losses`, or a teacher's scores that the examples lack or cannot be labels.
    """
    ranking = config.ranking
    weights = check_losses(config)
    known = examples.scores[np.isfinite(examples.scores)]
    if not len(known):
        _refuse_without_teacher(ranking, weights, examples.name)
    _check_labels(ranking, known)
    options = LossOptions(
        relevant_grade=float(config.data.relevant_grade),
        top_grade=float(max(examples.grades.max(), 1)),
        soft_label=ranking.soft_labels,
        beta=ranking.preference_beta,
    )
    return RankingObjective(
        make_losses(options),
        weights,
        ranking.kl_coefficient,
        ranking.format_coefficient,
        options.relevant_grade,
    )
