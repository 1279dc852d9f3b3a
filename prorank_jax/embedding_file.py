"""What the lines of a training file say of each query, taken together; two meanings are refused."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from prorank_jax.config import DataOptions
from prorank_jax.embedding_line import Scored, read_line
from prorank_jax.jsonl import read_jsonl
from prorank_jax.pair_line import LABEL, SCORE, LabelledPair, is_labelled_positive
from prorank_jax.types import Candidate, Document, RankingGroup

RELEVANT, IRRELEVANT = 1, 0


def _document(text: str) -> Document:
    identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Document(identifier, text)


@dataclass
class FileQuery:
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
class QueriesOfFile:
    """What all lines of a file say.

    Attributes:
        first: pair of the file, and its place.
        unlabelled: place of a line that can be no pair; "": none.
    """

    queries: dict[str, FileQuery] = field(default_factory=dict)
    first: tuple[LabelledPair, str] | None = None
    unlabelled: str = ""


def begins_with_labelled_positive(path: Path) -> bool:
    """Whether the first line of a file is a pair of which earlier versions passed over the label."""
    return any(is_labelled_positive(record) for _, record in itertools.islice(read_jsonl(path), 1))


def read_queries_of_file(path: Path, options: DataOptions) -> QueriesOfFile:
    """What all lines of a file say, lines of the same query together.

    Raises:
        ValueError: a flaw in a line, or lines that contradict each other; see `read_embedding_groups`.
    """
    file = QueriesOfFile()
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
        query = file.queries.setdefault(line.query, FileQuery(line.id))
        query.lines += 1
        if line.pair is None:
            _refuse_other_grade(options, path)
            _add(query.graded.setdefault(RELEVANT, {}), line.relevant, f"{place}: pos")
            _add(query.graded.setdefault(IRRELEVANT, {}), line.irrelevant, f"{place}: neg")
        else:
            pair = _as_meant(line.pair, options)
            file.first = file.first or (pair, place)
            _refuse_mixture(pair, place, *file.first)
            _add_pair(query, pair, _grade(pair, options, place), place)
        file.unlabelled = file.unlabelled or (place if line.lacks_label else "")
        if file.unlabelled and file.first is not None:
            raise ValueError(
                f"{file.unlabelled}: has no label, and {file.first[0].told} ({file.first[1]}) is one; give "
                "each pair a label, or leave the line out"
            )
    return file


def _as_meant(pair: LabelledPair, options: DataOptions) -> LabelledPair:
    """With a `data.relevant_score`, a `score` alone is a score, however it is written."""
    if options.relevant_score is None or pair.named != SCORE or pair.grade is None:
        return pair
    return replace(pair, grade=None, score=float(pair.grade))


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
        have_both = any(one.grade is not None and one.score is not None for one in (pair, first))
        raise ValueError(
            f"{place}: {pair.told} is {kinds[0]}, and {first.told} ({first_place}) {kinds[1]}; "
            + (
                "give every pair a label, or none"
                if have_both
                else "write all of them with a decimal point (scores), or none (grades)"
            )
        )


def _grade(pair: LabelledPair, options: DataOptions, place: str) -> int:
    if pair.grade is not None:
        return pair.grade
    if options.relevant_score is None:
        grade = "write it as an integer if it is a grade" if pair.named == LABEL else "add label, an integer"
        raise ValueError(
            f"{place}: {pair.told} is a score, which does not say what is relevant; set data.relevant_score "
            f"(from which score on a passage is), or {grade}"
        )
    is_relevant = pair.score is not None and pair.score >= options.relevant_score
    return options.relevant_grade if is_relevant else IRRELEVANT


def _add_pair(query: FileQuery, pair: LabelledPair, grade: int, place: str) -> None:
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
