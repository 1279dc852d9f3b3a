"""Reads FlagEmbedding's training files: one query a line with its passages, `pos` and `neg`."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from pathlib import Path
from typing import Any

from prorank_jax.jsonl import read_jsonl, take_text, valid_text
from prorank_jax.types import Candidate, Document, RankingGroup

SPLITS = ("train", "dev")
TRAIN_SHARE = 0.9
RELEVANT, IRRELEVANT = 1, 0

_log = logging.getLogger(__name__)


def split_of(query: str) -> str:
    """`train` for about nine queries of ten, else `dev`: a function of the query's text alone."""
    number = int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big")
    return "train" if number < TRAIN_SHARE * 2**64 else "dev"


def _passages(record: dict[str, Any], name: str, place: str) -> list[str]:
    if name not in record:
        raise ValueError(f"{place}: no field {name!r}; a line has query, pos and neg")
    passages = record[name]
    if not isinstance(passages, list) or not all(isinstance(text, str) for text in passages):
        raise ValueError(f"{place}: {name} must be a list of strings")
    return [valid_text(text) for text in passages]


def _scores(record: dict[str, Any], name: str, count: int, place: str) -> list[float | None]:
    scores = record.get(name)
    if scores is None:
        return [None] * count
    is_list = isinstance(scores, list)
    if not is_list or not all(_is_finite_number(score) for score in scores):
        raise ValueError(f"{place}: {name} must be a list of finite numbers")
    if len(scores) != count:
        raise ValueError(f"{place}: {name} has {len(scores)} numbers for {count} passages; give one for each")
    return [float(score) for score in scores]


def _is_finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _candidates(record: dict[str, Any], name: str, grade: int, place: str) -> list[Candidate]:
    passages = _passages(record, name, place)
    scores = _scores(record, f"{name}_scores", len(passages), place)
    unique = dict(zip(passages, scores, strict=True))
    return [Candidate(_document(text), grade, score) for text, score in unique.items()]


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


def _read_group(record: dict[str, Any], place: str, seed: int) -> tuple[RankingGroup, int]:
    query = take_text(record, "query", place)
    if not query.strip():
        raise ValueError(f"{place}: query is empty; give it a text or leave the line out")
    query_id = _query_id(record, place)
    relevant = _candidates(record, "pos", RELEVANT, place)
    known = {candidate.document.id for candidate in relevant}
    negatives = _candidates(record, "neg", IRRELEVANT, place)
    irrelevant = [candidate for candidate in negatives if candidate.document.id not in known]
    # Files list the hardest negatives first; a fixed shuffle keeps a cut of the list fair.
    random.Random(f"{seed}:{query_id}").shuffle(irrelevant)
    return RankingGroup(query_id, query, (*relevant, *irrelevant)), len(negatives) - len(irrelevant)


def read_embedding_groups(path: Path, split: str, seed: int = 0) -> list[RankingGroup]:
    """The groups of one split: `pos` passages have grade 1, `neg` passages grade 0.

    These files have no splits: `train` and `dev` are told apart by a hash of the query. The scores of
    `pos_scores` and `neg_scores` are kept; `prompt` and other fields are ignored. Queries without a
    relevant passage are left out and counted.

    Raises:
        ValueError: an unknown split, a flaw in a line, or no group in that split.
    """
    if split not in SPLITS:
        raise ValueError(
            f"data.split={split!r}: {path} is split by a hash of the query; choose one of {', '.join(SPLITS)}"
        )
    groups: list[RankingGroup] = []
    places: dict[str, str] = {}
    contradictions = lines = 0
    for place, record in read_jsonl(path):
        lines += 1
        group, dropped = _read_group(record, place, seed)
        contradictions += dropped
        if group.query_id in places:
            raise ValueError(
                f"{place}: the id {group.query_id!r} was there before ({places[group.query_id]}); "
                "ids must be unique"
            )
        places[group.query_id] = place
        if split_of(group.query) == split:
            groups.append(group)
    if contradictions:
        _log.warning("%s: %d passages are both pos and neg of a query; taken as pos", path, contradictions)
    if not groups:
        raise ValueError(
            f"data.source={str(path)!r}: none of its {lines} queries falls into the split {split!r}; "
            "give a file with more queries, or name another one as data.probe_source"
        )
    return groups
