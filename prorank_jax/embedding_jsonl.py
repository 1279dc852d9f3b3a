"""Reads FlagEmbedding's training files: one query a line with its passages, `pos` and `neg`."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prorank_jax.jsonl import read_jsonl, take_text, valid_text
from prorank_jax.source_names import TRAINED_ON, SourceFields
from prorank_jax.teacher_scores import LARGEST
from prorank_jax.types import Candidate, Document, RankingGroup

EVERYTHING = "all"
SPLITS = ("train", "dev", EVERYTHING)
TRAIN_SHARE = 0.9
RELEVANT, IRRELEVANT = 1, 0

Scored = list[tuple[str, float | None]]
"""Passages, each with its teacher's score."""

_log = logging.getLogger(__name__)


def split_of(query: str) -> str:
    """`train` for about nine queries of ten, else `dev`: a function of the query's text alone."""
    number = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
    return "train" if number < TRAIN_SHARE * 2**64 else "dev"


def _passages(record: dict[str, Any], name: str, place: str) -> list[str]:
    if name == "pos" and name not in record:
        raise ValueError(f"{place}: no field {name!r}; a line has query and pos, and neg unless it is mined")
    passages = record.get(name, [])
    if not isinstance(passages, list) or not all(isinstance(text, str) for text in passages):
        raise ValueError(f"{place}: {name} must be a list of strings")
    return [valid_text(text) for text in passages]


def _scores(record: dict[str, Any], name: str, count: int, place: str) -> list[float | None]:
    scores = record.get(name)
    if scores is None:
        return [None] * count
    is_list = isinstance(scores, list)
    if not is_list or not all(_is_finite_number(score) for score in scores):
        raise ValueError(f"{place}: {name} must be a list of finite numbers (float32)")
    if len(scores) != count:
        raise ValueError(f"{place}: {name} has {len(scores)} numbers for {count} passages; give one for each")
    return [float(score) for score in scores]


def _is_finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _scored_passages(record: dict[str, Any], name: str, place: str) -> Scored:
    passages = _passages(record, name, place)
    if name == "pos" and not all(text.strip() for text in passages):
        raise ValueError(f"{place}: pos holds an empty passage; give it a text or leave it out")
    return list(zip(passages, _scores(record, f"{name}_scores", len(passages), place), strict=True))


def _document(text: str) -> Document:
    identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Document(identifier, text)


def _query_id(record: dict[str, Any], place: str) -> str:
    identifier = record.get("id")
    if identifier is None:
        return f"line-{place.rsplit(' ', 1)[-1]}"
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise ValueError(f"{place}: id={identifier!r} is {type(identifier).__name__}; write it as a string")
    return valid_text(str(identifier))


@dataclass
class _Query:
    """What all lines of a query say: each passage with its teacher's score."""

    id: str
    relevant: dict[str, float | None] = field(default_factory=dict)
    irrelevant: dict[str, float | None] = field(default_factory=dict)

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


def _read_query(record: dict[str, Any], place: str) -> str:
    query = take_text(record, "query", place)
    if not query.strip():
        raise ValueError(f"{place}: query is empty; give it a text or leave the line out")
    return query


def read_embedding_groups(
    path: Path, split: str, seed: int = 0, fields: SourceFields = TRAINED_ON
) -> list[RankingGroup]:
    """The groups of one split: `pos` passages have grade 1, `neg` passages grade 0.

    These files have no splits: `train` and `dev` are told apart by a hash of the query, and `all` is both,
    for a file beside which another one is held out. Lines of the same query, as files of triples have them,
    are one group with the first line's id: what is relevant on one is no negative on another. The scores of
    `pos_scores` and `neg_scores` are kept; `prompt` and other fields are ignored.

    Args:
        fields: that named the file and the split.

    Raises:
        ValueError: an unknown split, a flaw in a line, or no group in that split.
    """
    if split not in SPLITS:
        raise ValueError(
            f"{fields.split}={split!r}: {path} is split by a hash of the query; "
            f"choose one of {', '.join(SPLITS)}"
        )
    queries, lines = _read_queries(path)
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
    if lines > len(queries):
        _log.info(
            "%s: %d lines of %d queries; those of one query are taken together", path, lines, len(queries)
        )
    contradictions = sum(query.contradictions for query in queries.values())
    if contradictions:
        _log.warning("%s: %d passages are both pos and neg of a query; taken as pos", path, contradictions)
    return [query.group(text, seed) for text, query in kept.items()]


def _read_queries(path: Path) -> tuple[dict[str, _Query], int]:
    """Each query's text with what its lines say, and how many lines there are."""
    queries: dict[str, _Query] = {}
    known: dict[str, tuple[str, str]] = {}
    lines = 0
    for place, record in read_jsonl(path):
        text = _read_query(record, place)
        query_id = _query_id(record, place)
        before, text_before = known.setdefault(query_id, (place, text))
        if text_before != text:
            raise ValueError(
                f"{place}: the id {query_id!r} was there before ({before}) with another query; "
                "ids must be unique"
            )
        lines += 1
        query = queries.setdefault(text, _Query(query_id))
        _add(query.relevant, _scored_passages(record, "pos", place), f"{place}: pos")
        _add(query.irrelevant, _scored_passages(record, "neg", place), f"{place}: neg")
    return queries, lines


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
