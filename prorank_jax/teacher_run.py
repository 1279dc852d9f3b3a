"""The file that a config names for its teacher's scores, and whether they are of the texts to train on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from prorank_jax.config import DataOptions
from prorank_jax.evaluation_scores import header_of
from prorank_jax.named_files import teacher_file
from prorank_jax.pair_scores import PairScores, holds_pair_scores, read_pair_scores
from prorank_jax.source_names import CATALOGUE_PREFIX, names_embedding_file
from prorank_jax.teacher_scores import TeacherScores, read_teacher_scores

# The ending of the part of a fingerprint that says nothing of texts.
JUDGEMENTS = ".tsv"

_log = logging.getLogger(__name__)


Teacher = TeacherScores | PairScores


def read_teacher(options: DataOptions, content: Callable[[], Mapping[str, str]]) -> Teacher | None:
    """The scores of the file that `options` name; None without a teacher.

    Args:
        content: the fingerprint of what is trained on, as `corpora.source_fingerprint`; asked for only where
            the file says which texts were scored.

    Raises:
        ValueError: as `read_scores`, or an evaluation of other texts.
    """
    file, scores = teacher_file(options), read_scores(options)
    if file is not None and not isinstance(scores, PairScores):
        _check_texts(file, options, content)
    return scores


def read_scores(options: DataOptions) -> Teacher | None:
    """The scores of the file that `options` name, of whatever texts; None without a teacher.

    Raises:
        ValueError: no such file, a flaw in it, or scores of a kind that the source or
            `options.teacher_depth` cannot use.
    """
    file = teacher_file(options)
    if file is None:
        return None
    if holds_pair_scores(file):
        if options.teacher_depth:
            raise ValueError(
                f"data.teacher_depth={options.teacher_depth}: the pairs of {options.teacher_scores} have no "
                "ids; leave it out, or name scores by ids"
            )
        return read_pair_scores(file)
    if names_embedding_file(options.source):
        raise ValueError(
            f"data.teacher_scores={options.teacher_scores!r}: the queries and passages of {options.source} "
            "have no ids of their own; write the scores into it (pos_scores and neg_scores, or score beside "
            "a pair's label), or score the pairs that launch/training_pairs.py writes"
        )
    return read_teacher_scores(file)


def score_values(teacher: Teacher) -> list[float]:
    """Every score of a teacher."""
    if isinstance(teacher, PairScores):
        return list(teacher.of_texts.values())
    return [score for of_query in teacher.values() for score in of_query.values()]


def _check_texts(file: Path, options: DataOptions, content: Callable[[], Mapping[str, str]]) -> None:
    header = header_of(file)
    if header is None:
        return
    scored, trained = header["dataset_fingerprint"], content()
    shared = scored.keys() & trained.keys()
    if all(name.endswith(JUDGEMENTS) for name in shared):
        _log.warning(
            "data.teacher_scores=%r: scores of %r, and nothing tells whether those are the texts of "
            "data.source=%r under the same ids",
            options.teacher_scores,
            header["dataset"],
            options.source,
        )
    differing = sorted(name for name in shared if _decides_scores(name) and scored[name] != trained[name])
    if differing:
        raise ValueError(
            f"data.teacher_scores={options.teacher_scores!r}: scores of {header['dataset']!r}, of which "
            f"{' and '.join(differing)} had other content than in data.source={options.source!r}; evaluate "
            "that, or write the scores of the texts that are the same as a TSV"
        )


def _decides_scores(name: str) -> bool:
    """Whether texts come from this part of a fingerprint, not judgements or the version of a library."""
    return not name.endswith(JUDGEMENTS) and not name.startswith(CATALOGUE_PREFIX)
