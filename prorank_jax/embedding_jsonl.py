"""Reads training files: each line has a query with relevant and irrelevant passages, or a labelled one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from prorank_jax.config import DataOptions
from prorank_jax.embedding_file import FileQuery, read_queries_of_file
from prorank_jax.source_names import TRAINED_ON, SourceFields
from prorank_jax.types import RankingGroup

EVERYTHING = "all"
SPLITS = ("train", "dev", EVERYTHING)
TRAIN_SHARE = 0.9

_log = logging.getLogger(__name__)


def split_of(query: str) -> str:
    """`train` for about nine queries of ten, else `dev`: a function of the query's text alone."""
    number = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
    return "train" if number < TRAIN_SHARE * 2**64 else "dev"


def read_embedding_groups(
    path: Path,
    split: str,
    options: DataOptions,
    seed: int = 0,
    fields: SourceFields = TRAINED_ON,
    *,
    tell: bool = False,
) -> list[RankingGroup]:
    """The groups of one split: `pos` has grade 1 and `neg` grade 0, a labelled pair its own.

    A pair that has a score and no grade is relevant from `options.relevant_score` on, and has then the grade
    `options.relevant_grade`, else 0. Relevant passages come first, the best grade before all, those of one
    grade in the file's order; the others are shuffled.

    These files have no splits: `train` and `dev` are told apart by a hash of the query, and `all` is both,
    for a file beside which another one is held out. Lines of the same query, as files of triples have them,
    are one group with the first line's id: what is `pos` on one is no negative on another. A teacher's
    scores are kept; see `read_line`.

    Args:
        fields: that named the file and the split.
        tell: say what the split's lines have in common; a file is read more than once.

    Raises:
        ValueError: an unknown split, a flaw in a line, two labels of one pair, grades beside scores, a score
            alone without `options.relevant_score`, `pos` with another `options.relevant_grade` than its own,
            or no group in that split.
    """
    if split not in SPLITS:
        raise ValueError(
            f"{fields.split}={split!r}: {path} is split by a hash of the query; "
            f"choose one of {', '.join(SPLITS)}"
        )
    file = read_queries_of_file(path, options)
    queries = file.queries
    if not queries:
        raise ValueError(
            f"{fields.source}={str(path)!r}: is empty; write one JSON object on each line, with query and pos"
        )
    kept = {text: query for text, query in queries.items() if split in (EVERYTHING, split_of(text))}
    if not kept:
        raise ValueError(
            f"{fields.source}={str(path)!r}: none of its {len(queries)} queries falls into the split "
            f"{split!r}, which a hash of the query decides, about 9 to 1; give a file with more queries, "
            "some 50, or hold out another file: --data.probe_source FILE --data.probe_split all"
        )
    if tell:
        _tell_what_is_shared(f"{path}/{split}", list(kept.values()), has_pairs=file.first is not None)
        if options.relevant_score is not None and (file.first is None or file.first[0].grade is not None):
            _log.warning("%s: data.relevant_score is not read: no line has a score alone", path)
    return [query.group(text, seed, options.relevant_grade) for text, query in kept.items()]


def _tell_what_is_shared(name: str, queries: Sequence[FileQuery], *, has_pairs: bool) -> None:
    lines = sum(query.lines for query in queries)
    if lines > len(queries) and not has_pairs:  # pairs are meant to be taken together
        _log.warning(
            "%s: %d lines of %d queries; those of one query are taken together", name, lines, len(queries)
        )
    contradictions = sum(query.contradictions for query in queries)
    if contradictions:
        told = "%s: %d passages have several grades for a query, as pos and neg; the highest is taken"
        _log.warning(told, name, contradictions)


def queries_outside(path: Path, split: str, options: DataOptions) -> tuple[int, int]:
    """How many queries of a file are not of `train` or `dev`, and how many it has.

    Raises:
        ValueError: a flaw in a line, as `read_embedding_groups`.
    """
    queries = read_queries_of_file(path, options).queries
    return sum(split_of(text) != split for text in queries), len(queries)
