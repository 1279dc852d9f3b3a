"""Scores that a teacher gave to pairs of query and document: read from files, put beside the judgements."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from prorank_jax.collection import Collection
from prorank_jax.evaluation_scores import ScoredPair, header_of, scored_pairs
from prorank_jax.jsonl import read_lines
from prorank_jax.messages import name_a_few
from prorank_jax.negatives import MINED_GRADE, look_relevant
from prorank_jax.types import Candidate, RankingGroup

TeacherScores = Mapping[str, Mapping[str, float]]
"""Query id → document id → score, higher is more relevant."""

FORMATS = (
    "write a TREC run (query id, Q0, document id, rank, score, tag; separated by spaces) "
    "or a TSV (query id, document id, score; separated by tabs), or name an evaluation's scores.jsonl, "
    "or pairs with query, passage and score, a JSON object on each line"
)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LARGEST = float(np.finfo(np.float32).max)

Columns = tuple[str, str, str]

_log = logging.getLogger(__name__)


def _tsv_columns(line: str) -> Columns | None:
    columns = [column.strip() for column in line.split("\t")]
    return (columns[0], columns[1], columns[2]) if len(columns) == 3 else None


def _trec_columns(line: str) -> Columns | None:
    columns = line.split()
    return (columns[0], columns[2], columns[4]) if len(columns) == 6 else None


def _recognise(path: Path) -> Callable[[str], Columns | None]:
    number, line = next(read_lines(path), (1, ""))
    if not line:
        raise ValueError(f"{path}: holds no scores; {FORMATS}")
    for columns_of in (_tsv_columns, _trec_columns):
        if columns_of(line):
            return columns_of
    raise ValueError(
        f"{path}, line {number}: neither three columns between tabs nor six between spaces; {FORMATS}"
    )


def _is_header(columns: Columns) -> bool:
    score = columns[2]
    is_word = any(map(str.isalpha, score)) and not any(map(str.isdigit, score))
    return is_word and not _is_float(score)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _to_score(text: str, place: str) -> float:
    score = float(text) if NUMBER.fullmatch(text) else math.nan
    if not abs(score) <= LARGEST:
        raise ValueError(f"{place}: the score {text!r} is not a finite float32 number; correct or remove it")
    return score


def read_teacher_scores(path: str | Path) -> dict[str, dict[str, float]]:
    """The scores of an evaluation, a TREC run, or a TSV of query id, document id and score, in its order.

    Which of them it is shows in the first line: a JSON object, three columns between tabs, or six between
    spaces. A TSV may have a header. Of a run only the ids and the score count, not its ranks.

    Raises:
        ValueError: no such file, no scores in it, or a line that is not UTF-8, has other columns, an empty
            id, a score that is not finite, or a pair that was there before; an evaluation that was stopped,
            or a run whose scores are its ranks.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of teacher scores; {FORMATS}")
    if header_of(path) is not None:
        return _by_query(path, scored_pairs(path))
    columns_of = _recognise(path)
    scores = _by_query(path, _pairs(path, columns_of))
    if columns_of is _trec_columns:
        _refuse_ranks(path, scores)
    return scores


def _pairs(path: Path, columns_of: Callable[[str], Columns | None]) -> Iterator[ScoredPair]:
    is_first = True
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        columns = columns_of(line)
        if columns is None:
            raise ValueError(f"{place}: other columns than the lines before; {FORMATS}")
        if not (is_first and columns_of is _tsv_columns and _is_header(columns)):
            yield place, *columns
        is_first = False


def _refuse_ranks(path: Path, scores: TeacherScores) -> None:
    """Refuses a run in which every query's scores are n, n − 1, … 1, as `trec.write_run` has them."""
    rows = [sorted(of_query.values()) for of_query in scores.values()]
    if max(map(len, rows)) > 1 and all(row == list(range(1, len(row) + 1)) for row in rows):
        raise ValueError(
            f"{path}: its scores are ranks: they count down to 1 in every query, and losses would learn "
            "those margins; name the scores.jsonl beside the run of an evaluation, or, if it is ranks that "
            "you mean, write them as a TSV"
        )


def _by_query(path: Path, pairs: Iterable[ScoredPair]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for place, query, document, score in pairs:
        if not query or not document:
            raise ValueError(f"{place}: an empty id; {FORMATS}")
        of_query = scores.setdefault(query, {})
        if document in of_query:
            raise ValueError(
                f"{place}: query {query!r} and document {document!r} were there before; keep one score"
            )
        of_query[document] = _to_score(score, place)
    if not scores:
        raise ValueError(f"{path}: holds no scores; {FORMATS}")
    return scores


def refuse_other_queries(scores: TeacherScores, known: Set[str]) -> None:
    """Refuses scores of which none is of a query to train on, whose ids are `known`.

    Raises:
        ValueError: as said.
    """
    if known.isdisjoint(scores):
        raise ValueError(
            f"data.teacher_scores: none of their {len(scores)} queries ({name_a_few(scores)}) is among the "
            f"{len(known)} to train on ({name_a_few(known)}); give the scores of this collection and split"
        )


def _check_queries(groups: Sequence[RankingGroup], scores: TeacherScores) -> None:
    known = {group.query_id for group in groups}
    refuse_other_queries(scores, known)
    foreign = set(scores) - known
    if foreign:
        _log.warning("teacher scores: %d queries that are not trained on are left out", len(foreign))
    unscored = known - set(scores)
    if unscored:
        _log.warning(
            "teacher scores: %d of %d queries have none (%s)", len(unscored), len(known), name_a_few(unscored)
        )


def _with_scores(group: RankingGroup, scores: TeacherScores) -> RankingGroup:
    of_query = scores.get(group.query_id, {})
    candidates = tuple(
        dataclasses.replace(candidate, score=of_query.get(candidate.document.id))
        for candidate in group.candidates
    )
    return dataclasses.replace(group, candidates=candidates)


def _log_coverage(groups: Sequence[RankingGroup], scores: TeacherScores) -> None:
    candidates = [candidate for group in groups for candidate in group.candidates]
    used = sum(candidate.score is not None for candidate in candidates)
    given = sum(len(scores.get(group.query_id, {})) for group in groups)
    _log.warning("teacher scores: of %d candidates %d have one", len(candidates), used)
    if used < given:
        _log.warning("teacher scores: %d are of documents that are no candidates", given - used)


def attach_scores(groups: Sequence[RankingGroup], scores: TeacherScores) -> list[RankingGroup]:
    """The groups with the teacher's score of each candidate; None where the teacher has none.

    Scores that candidates had before are dropped, so that no list mixes two teachers. Queries that
    are not trained on are ignored; how many scores were of documents that are no candidates is logged.

    Raises:
        ValueError: the teacher scored none of the queries, or none of their candidates.
    """
    _check_queries(groups, scores)
    attached = [_with_scores(group, scores) for group in groups]
    if all(candidate.score is None for group in attached for candidate in group.candidates):
        given = {document for group in groups for document in scores.get(group.query_id, {})}
        wanted = {candidate.document.id for group in groups for candidate in group.candidates}
        raise ValueError(
            f"data.teacher_scores: none of the documents scored ({name_a_few(given)}) is a candidate "
            f"of its query (candidates: {name_a_few(wanted)}); set data.teacher_depth above 0 to add them"
        )
    _log_coverage(attached, scores)
    return attached


def _check_documents(groups: Sequence[RankingGroup], scores: TeacherScores, collection: Collection) -> None:
    scored = {document for group in groups for document in scores.get(group.query_id, {})}
    unknown = scored - set(collection.documents)
    if unknown:
        raise ValueError(
            f"data.teacher_scores: {len(unknown)} documents are not in {collection.name} "
            f"({name_a_few(unknown)}); give the scores of this collection"
        )


def _best_unjudged(
    group: RankingGroup, scores: TeacherScores, collection: Collection, depth: int, left_out: set[str]
) -> list[str]:
    """Ids of the teacher's best documents that nobody judged, best first, equal scores by id."""
    judged = collection.qrels.get(group.query_id, {})
    of_query = scores.get(group.query_id, {})
    unjudged = [document for document in of_query if document not in judged and document not in left_out]
    return sorted(unjudged, key=lambda document: (-of_query[document], document))[:depth]


def add_teacher_candidates(
    groups: Sequence[RankingGroup],
    scores: TeacherScores,
    collection: Collection,
    depth: int,
    relevant_grade: int = 1,
) -> list[RankingGroup]:
    """`attach_scores`, after the teacher's best `depth` unjudged documents became candidates too.

    New candidates follow those there are, best first, with the grade of a mined negative. Some of them may
    be relevant though nobody judged them: losses that learn from the teacher know, those that compare
    grades do not. Copies of a relevant document, and what says just the query, are not added: no negative
    of these queries is one.

    Raises:
        ValueError: as `attach_scores`; a negative depth; scores of documents that the collection has not.
    """
    if depth < 0:
        raise ValueError(f"data.teacher_depth={depth}: must be at least 0")
    _check_documents(groups, scores, collection)
    if not depth:
        return attach_scores(groups, scores)
    left_out = look_relevant(collection, [group.query_id for group in groups], relevant_grade)
    widened = []
    for group in groups:
        there = {candidate.document.id for candidate in group.candidates}
        added = tuple(
            Candidate(collection.documents[document], MINED_GRADE)
            for document in _best_unjudged(group, scores, collection, depth, left_out[group.query_id])
            if document not in there
        )
        widened.append(dataclasses.replace(group, candidates=group.candidates + added))
    return attach_scores(widened, scores)
