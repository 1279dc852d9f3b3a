"""Reads training files of one query a line, with passages that are relevant to it and others that are not."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prorank_jax.embedding_line import Scored, read_line
from prorank_jax.jsonl import read_jsonl
from prorank_jax.source_names import TRAINED_ON, SourceFields
from prorank_jax.types import Candidate, Document, RankingGroup

EVERYTHING = "all"
SPLITS = ("train", "dev", EVERYTHING)
TRAIN_SHARE = 0.9
RELEVANT, IRRELEVANT = 1, 0

_log = logging.getLogger(__name__)


def split_of(query: str) -> str:
    """`train` for about nine queries of ten, else `dev`: a function of the query's text alone."""
    number = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
    return "train" if number < TRAIN_SHARE * 2**64 else "dev"


def _document(text: str) -> Document:
    identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Document(identifier, text)


@dataclass
class _Query:
    """What all lines of a query say: each passage with its teacher's score."""

    id: str
    relevant: dict[str, float | None] = field(default_factory=dict)
    irrelevant: dict[str, float | None] = field(default_factory=dict)
    lines: int = 0

    @property
    def contradictions(self) -> int:
        return len(self.relevant.keys() & self.irrelevant.keys())

    def group(self, text: str, seed: int) -> RankingGroup:
        negatives = [
            Candidate(_document(passage), IRRELEVANT, score)
            for passage, score in self.irrelevant.items()
            if passage not in self.relevant
        ]
        # Files list the hardest negatives first; a fixed shuffle keeps a cut of the list fair.
        random.Random(f"{seed}:{self.id}").shuffle(negatives)
        positives = [
            Candidate(_document(passage), RELEVANT, self.irrelevant.get(passage) if score is None else score)
            for passage, score in self.relevant.items()
        ]
        return RankingGroup(self.id, text, (*positives, *negatives))


def read_embedding_groups(
    path: Path, split: str, seed: int = 0, fields: SourceFields = TRAINED_ON, *, tell: bool = False
) -> list[RankingGroup]:
    """The groups of one split: relevant passages have grade 1, the others grade 0.

    These files have no splits: `train` and `dev` are told apart by a hash of the query, and `all` is both,
    for a file beside which another one is held out. Lines of the same query, as files of triples have them,
    are one group with the first line's id: what is relevant on one is no negative on another. A teacher's
    scores are kept; see `read_line`.

    Args:
        fields: that named the file and the split.
        tell: say what the split's lines have in common; a file is read more than once.

    Raises:
        ValueError: an unknown split, a flaw in a line, or no group in that split.
    """
    if split not in SPLITS:
        raise ValueError(
            f"{fields.split}={split!r}: {path} is split by a hash of the query; "
            f"choose one of {', '.join(SPLITS)}"
        )
    queries = _read_queries(path)
    if not queries:
        raise ValueError(
            f"{fields.source}={str(path)!r}: is empty; write one JSON object on each line, with query and pos"
        )
    kept = {text: query for text, query in queries.items() if split in (EVERYTHING, split_of(text))}
    if not kept:
        raise ValueError(
            f"{fields.source}={str(path)!r}: none of its {len(queries)} queries falls into the split "
            f"{split!r}; give a file with more queries, or the split 'all' of another one: "
            "data.probe_source=FILE --data.probe_split all"
        )
    if tell:
        _tell_what_is_shared(f"{path}/{split}", list(kept.values()))
    return [query.group(text, seed) for text, query in kept.items()]


def _tell_what_is_shared(name: str, queries: Sequence[_Query]) -> None:
    lines = sum(query.lines for query in queries)
    if lines > len(queries):
        _log.warning(
            "%s: %d lines of %d queries; those of one query are taken together", name, lines, len(queries)
        )
    contradictions = sum(query.contradictions for query in queries)
    if contradictions:
        _log.warning("%s: %d passages are both pos and neg of a query; taken as pos", name, contradictions)


def queries_outside(path: Path, split: str) -> tuple[int, int]:
    """How many queries of a file are not of `train` or `dev`, and how many it has.

    Raises:
        ValueError: a flaw in a line.
    """
    queries = _read_queries(path)
    return sum(split_of(text) != split for text in queries), len(queries)


def _read_queries(path: Path) -> dict[str, _Query]:
    """Each query's text with what its lines say."""
    queries: dict[str, _Query] = {}
    known: dict[str, tuple[str, str]] = {}
    for place, record in read_jsonl(path):
        line = read_line(record, place)
        before, text_before = known.setdefault(line.id, (place, line.query))
        if text_before != line.query:
            raise ValueError(
                f"{place}: the id {line.id!r} was there before ({before}) with another query; "
                "ids must be unique"
            )
        query = queries.setdefault(line.query, _Query(line.id))
        query.lines += 1
        _add(query.relevant, line.relevant, f"{place}: pos")
        _add(query.irrelevant, line.irrelevant, f"{place}: neg")
    return queries


def _add(known: dict[str, float | None], passages: Scored, name: str) -> None:
    """Adds passages; one without a score takes none away.

    Raises:
        ValueError: a passage of this query has another score.
    """
    for passage, score in passages:
        before = known.get(passage)
        if before is not None and score is not None and not _are_alike(before, score):
            raise ValueError(
                f"{name} gives a passage of this query the score {score:g}, and it has {before:g}; keep one"
            )
        known[passage] = score if before is None else before


def _are_alike(first: float, second: float) -> bool:
    """Whether a teacher that rounds to half floats may have given both to one pair, in two batches."""
    return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-3)
