"""A teacher's scores of pairs of texts: of any query and document that say the same, whatever their ids are.

Queries made from documents have ids that say nothing of their texts, so the texts are what is scored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prorank_jax.jsonl import read_jsonl, valid_text
from prorank_jax.messages import name_a_few
from prorank_jax.pair_line import LABEL, SCORE, is_blank, is_pair, read_pair
from prorank_jax.query_texts import plain
from prorank_jax.teacher_scores import LARGEST
from prorank_jax.types import RankingGroup

# A teacher that computes in bfloat16 may give copies of a text scores that are one step of it apart.
_ROUNDING = 2.0**-7

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairScores:
    """The scores of a file.

    Attributes:
        of_texts: `_key` of a query and a passage → score.
        queries: `plain` texts of the queries.
    """

    of_texts: Mapping[bytes, float]
    queries: frozenset[str]

    def get(self, query: str, passage: str) -> float | None:
        """The score of two texts; None where the teacher has none."""
        return self.of_texts.get(_key(query, passage))


def _key(query: str, passage: str) -> bytes:
    """Few bytes for texts of any length: a file may have millions of pairs."""
    return hashlib.sha256(f"{valid_text(query)}\0{valid_text(passage)}".encode()).digest()[:16]


def holds_pair_scores(path: Path) -> bool:
    """Whether the first line of a file is a pair of texts."""
    try:
        return any(is_pair(record) for _, record in itertools.islice(read_jsonl(path), 1))
    except ValueError:
        return False


def read_pair_scores(path: Path) -> PairScores:
    """The score of each line's pair: `query`, `passage` and `score`, or the other names of labelled pairs.

    Raises:
        ValueError: a line that is no such pair, has a grade only, or another score than an earlier line of
            the same texts.
    """
    scores: dict[bytes, float] = {}
    queries = set()
    for place, record in read_jsonl(path):
        if all(is_blank(record.get(name)) for name in (SCORE, LABEL)):
            raise ValueError(f"{place}: no {SCORE}; write the teacher's, a number, or leave the line out")
        pair = read_pair(_with_real_score(record), place)
        if pair.score is None:
            raise ValueError(
                f"{place}: {pair.told} is a grade; write the teacher's score as {SCORE}, a number"
            )
        score = pair.score
        queries.add(plain(pair.query))
        before = scores.setdefault(_key(pair.query, pair.passage), score)
        if not math.isclose(before, score, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            raise ValueError(f"{place}: the score {score:g} for texts that have {before:g}; keep one")
    return PairScores(scores, frozenset(queries))


def _with_real_score(record: dict[str, Any]) -> dict[str, Any]:
    """Elsewhere a whole number is a grade; here `score` is never one."""
    score = record.get(SCORE)
    if isinstance(score, int) and not isinstance(score, bool) and abs(score) <= LARGEST:
        return record | {SCORE: float(score)}
    return record


def attach_pair_scores(groups: Sequence[RankingGroup], scores: PairScores) -> list[RankingGroup]:
    """The groups with the score of each candidate's texts; None where the teacher has none.

    Scores that candidates had before are dropped, so that no list mixes two teachers.

    Raises:
        ValueError: the teacher scored no candidate.
    """
    attached = [
        dataclasses.replace(
            group,
            candidates=tuple(
                dataclasses.replace(one, score=scores.get(group.query, one.document.full_text))
                for one in group.candidates
            ),
        )
        for group in groups
    ]
    wanted, scored = set(_keys(groups)), set(scores.of_texts)
    if not wanted & scored:
        raise _of_other_texts(scores, [groups[0].query])
    _tell_coverage(attached, wanted, scored)
    return attached


def _tell_coverage(groups: Sequence[RankingGroup], wanted: Set[bytes], scored: Set[bytes]) -> None:
    there = len(wanted & scored)
    lacking = [one.query for one in groups if all(c.score is None for c in one.candidates)]
    if lacking:
        told = "teacher scores: %d of %d queries have none (%s)"
        _log.warning(told, len(lacking), len(groups), name_a_few(lacking))
    remedy = (
        "; launch/training_pairs.py writes all pairs of a config, its seed included, and the scored lines of "
        "several files may be joined"
    )
    told = "teacher scores: of %d pairs %d have one%s"
    _log.warning(told, len(wanted), there, remedy if there < len(wanted) else "")
    if scored - wanted:
        _log.warning("teacher scores: %d are of pairs that are not trained on", len(scored - wanted))


def refuse_other_texts(scores: PairScores, queries: Sequence[str]) -> None:
    """Refuses scores of which none is of a query to train on, without a look at candidates.

    Args:
        queries: `plain` texts of all of them, or more.

    Raises:
        ValueError: as said.
    """
    if scores.queries.isdisjoint(queries):
        raise _of_other_texts(scores, queries[:1])


def _of_other_texts(scores: PairScores, such_as: Sequence[str]) -> ValueError:
    return ValueError(
        f"data.teacher_scores: none of their {len(scores.of_texts)} pairs has the texts of a query to train "
        f"on (as {name_a_few(such_as)}) and of one of its candidates; score the pairs that "
        "launch/training_pairs.py writes for this config"
    )


def _keys(groups: Sequence[RankingGroup]) -> Iterator[bytes]:
    for group in groups:
        for one in group.candidates:
            if one.document.full_text.strip():  # of nothing there is no score
                yield _key(group.query, one.document.full_text)
