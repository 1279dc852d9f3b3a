"""Reads training files: each line has a query with relevant and irrelevant passages, or a labelled one."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prorank_jax.config import DataOptions
from prorank_jax.embedding_line import Scored, read_line
from prorank_jax.jsonl import read_jsonl
from prorank_jax.pair_line import LabelledPair
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
    """What all lines of a query say.

    Attributes:
        graded: of each grade its passages, each with its teacher's score.
        of_pairs: the grades of passages that stood in labelled pairs.
    """

    id: str
    graded: dict[int, dict[str, float | None]] = field(default_factory=dict)
    of_pairs: dict[str, int] = field(default_factory=dict)
    lines: int = 0

    @property
    def contradictions(self) -> int:
        """Passages of several grades."""
        return sum(map(len, self.graded.values())) - len(set().union(*self.graded.values()))

    def group(self, text: str, seed: int, relevant_grade: int) -> RankingGroup:
        grades: dict[str, int] = {}
        scores: dict[str, float | None] = {}
        for grade in sorted(self.graded, reverse=True):
            for passage, score in self.graded[grade].items():
                grades.setdefault(passage, grade)
                scores[passage] = score if scores.get(passage) is None else scores[passage]
        candidates = [
            Candidate(_document(passage), grade, scores[passage]) for passage, grade in grades.items()
        ]
        relevant = [candidate for candidate in candidates if candidate.grade >= relevant_grade]
        others = candidates[len(relevant) :]
        # Files list the hardest negatives first; a fixed shuffle keeps a cut of the list fair.
        random.Random(f"{seed}:{self.id}").shuffle(others)
        return RankingGroup(self.id, text, (*relevant, *others))


@dataclass
class _File:
    """What all lines of a file say.

    Attributes:
        first: pair of the file, and its place.
    """

    queries: dict[str, _Query] = field(default_factory=dict)
    first: tuple[LabelledPair, str] | None = None


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
    file = _read_file(path, options)
    queries = file.queries
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
        _tell_what_is_shared(f"{path}/{split}", list(kept.values()), has_pairs=file.first is not None)
        if options.relevant_score is not None and (file.first is None or file.first[0].grade is not None):
            _log.warning("%s: data.relevant_score is not read: no line has a score alone", path)
    return [query.group(text, seed, options.relevant_grade) for text, query in kept.items()]


def _tell_what_is_shared(name: str, queries: Sequence[_Query], *, has_pairs: bool) -> None:
    lines = sum(query.lines for query in queries)
    if lines > len(queries) and not has_pairs:  # pairs are meant to be taken together
        _log.warning(
            "%s: %d lines of %d queries; those of one query are taken together", name, lines, len(queries)
        )
    contradictions = sum(query.contradictions for query in queries)
    if contradictions:
        _log.warning("%s: %d passages are both pos and neg of a query; taken as pos", name, contradictions)


def queries_outside(path: Path, split: str, options: DataOptions) -> tuple[int, int]:
    """How many queries of a file are not of `train` or `dev`, and how many it has.

    Raises:
        ValueError: a flaw in a line, as `read_embedding_groups`.
    """
    queries = _read_file(path, options).queries
    return sum(split_of(text) != split for text in queries), len(queries)


def _read_file(path: Path, options: DataOptions) -> _File:
    file = _File()
    known: dict[str, tuple[str, str]] = {}
    for place, record in read_jsonl(path):
        line = read_line(record, place)
        # The number of another line of a query names nothing, and there may be very many.
        if line.query not in file.queries or record.get("id") is not None:
            before, text_before = known.setdefault(line.id, (place, line.query))
            if text_before != line.query:
                raise ValueError(
                    f"{place}: the id {line.id!r} was there before ({before}) with another query; "
                    "ids must be unique"
                )
        query = file.queries.setdefault(line.query, _Query(line.id))
        query.lines += 1
        if line.pair is None:
            _refuse_other_grade(options, path)
            _add(query.graded.setdefault(RELEVANT, {}), line.relevant, f"{place}: pos")
            _add(query.graded.setdefault(IRRELEVANT, {}), line.irrelevant, f"{place}: neg")
        else:
            file.first = file.first or (line.pair, place)
            _refuse_mixture(line.pair, place, *file.first)
            _add_pair(query, line.pair, _grade(line.pair, options, place), place)
    return file


def _refuse_other_grade(options: DataOptions, path: Path) -> None:
    if options.relevant_grade > RELEVANT:
        raise ValueError(
            f"data.relevant_grade={options.relevant_grade}: the relevant passages of {path} have grade "
            f"{RELEVANT}; set it to {RELEVANT}"
        )


def _refuse_mixture(pair: LabelledPair, place: str, first: LabelledPair, first_place: str) -> None:
    """JSON of some programs has 1 where 1.0 is meant: a score among grades would be one by mistake."""
    if (pair.grade is None) != (first.grade is None):
        kinds = ("a score", "a grade") if pair.grade is None else ("a grade", "a score")
        raise ValueError(
            f"{place}: {pair.told} is {kinds[0]}, and {first.told} ({first_place}) {kinds[1]}; write all of "
            "them with a decimal point (scores), or none (grades)"
        )


def _grade(pair: LabelledPair, options: DataOptions, place: str) -> int:
    if pair.grade is not None:
        return pair.grade
    if options.relevant_score is None:
        raise ValueError(
            f"{place}: {pair.told} is a score, which does not say what is relevant; set data.relevant_score "
            "(from which score on a passage is), or add label, an integer"
        )
    is_relevant = pair.score is not None and pair.score >= options.relevant_score
    return options.relevant_grade if is_relevant else IRRELEVANT


def _add_pair(query: _Query, pair: LabelledPair, grade: int, place: str) -> None:
    """Adds a passage, with the grade that an earlier pair gave it: two scores may differ by a rounding.

    Raises:
        ValueError: an earlier pair has another label or score for it.
    """
    before = query.of_pairs.setdefault(pair.passage, grade)
    if pair.grade is not None and before != grade:
        raise ValueError(f"{place}: {pair.told} for a passage that has {before} for this query; keep one")
    _add(query.graded.setdefault(before, {}), [(pair.passage, pair.score)], f"{place}: {pair.told}")


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
