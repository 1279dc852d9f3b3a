"""One line of a file of labelled pairs: a query, one passage, and its grade or a teacher's score.

sentence-transformers' CrossEncoder trains on such data, and knows the texts by the order of their columns:
the names here are those that its data sets and examples give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prorank_jax.beir_folder import LONGEST_GRADE
from prorank_jax.jsonl import take_filled_text
from prorank_jax.teacher_scores import LARGEST

QUERIES = ("query", "question", "anchor", "sentence1")
# Miners of negatives leave the name `positive` to a column that then holds both.
_POSITIVE = "positive"
PASSAGES = ("passage", "document", "answer", "response", "sentence2", _POSITIVE)
LABEL, SCORE = "label", "score"
# sentence-transformers takes these for labels too.
_OTHER_LABELS = {"labels": LABEL, "scores": SCORE}
PAIRS = f"{QUERIES[0]} and {PASSAGES[0]} with {LABEL} or {SCORE}"


@dataclass(frozen=True)
class LabelledPair:
    """A query and one passage.

    Attributes:
        grade: None where a score is all that is known.
        score: a teacher's; None where a grade is all that is known.
        told: the field that says it and its value, for messages.
        named: that field.
    """

    query: str
    passage: str
    grade: int | None
    score: float | None
    told: str
    named: str


def is_blank(value: object) -> bool:
    """Whether a column is empty on a line: null, or "" where the table was a CSV file."""
    return value is None or (isinstance(value, str) and not value.strip())


def _filled_labels(record: dict[str, Any]) -> list[str]:
    return [name for name in (LABEL, SCORE) if not is_blank(record.get(name))]


def is_labelled_positive(record: dict[str, Any]) -> bool:
    """Whether a line has one passage as `positive`, and a label or score beside it."""
    return (
        bool(_filled_labels(record))
        and isinstance(record.get(_POSITIVE), str)
        and not is_blank(record[_POSITIVE])
    )


def is_pair(record: dict[str, Any]) -> bool:
    """Whether a line without negatives is a labelled pair: `positive` alone is a relevant passage."""
    if not is_blank(record.get(_POSITIVE)):
        return is_labelled_positive(record)
    return any(name in record for name in PASSAGES if name != _POSITIVE)


def read_pair(record: dict[str, Any], place: str) -> LabelledPair:
    """What a line says.

    Of `label` and `score` one is enough: an integer (or true, false) is a grade, any other number a score.
    Where both are there, `label` is the grade and `score` the score.

    Args:
        place: file and line, for messages.

    Raises:
        ValueError: no query, passage or label, two of one, an empty text, or a label that is no such number.
    """
    query, passage = _one_of(record, QUERIES, place), _one_of(record, PASSAGES, place)
    given = _filled_labels(record)
    if not given:
        raise ValueError(
            f"{place}: {passage} has no {LABEL} and no {SCORE}; add one, or where every {passage} is "
            f"relevant rename the field to {_POSITIVE}"
        )
    grade, score = None, None
    for name in given:
        value = record[name]
        _refuse_other_than_numbers(name, value, place)
        if isinstance(value, int) and not (name == SCORE and len(given) == 2):
            grade = _grade(name, value, place)
        else:
            score = float(value)
    if len(given) == 2 and grade is None:
        raise ValueError(
            f"{place}: {LABEL}={record[LABEL]!r} and {SCORE}={record[SCORE]!r} are two scores; keep one, or "
            f"write {LABEL} as an integer"
        )
    return LabelledPair(
        take_filled_text(record, query, place),
        take_filled_text(record, passage, place),
        grade,
        score,
        f"{given[0]}={record[given[0]]!r}",
        given[0],
    )


def lacks_label(record: dict[str, Any]) -> bool:
    """Whether a line with one relevant passage has a column of labels, and nothing in it."""
    has_column = LABEL in record or SCORE in record
    return has_column and not _filled_labels(record) and isinstance(record.get(_POSITIVE), str)


def refuse_other_labels(record: dict[str, Any], place: str) -> None:
    """Refuses a number beside a lone `positive` under a name that is nearly a label's.

    Raises:
        ValueError: names it.
    """
    for name, meant in _OTHER_LABELS.items():
        if isinstance(record.get(name), int | float):
            raise ValueError(f"{place}: {name}={record[name]!r} is not read; rename it {meant}, or remove it")


def _one_of(record: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    """The name of the field that is filled, or of an empty one."""
    there = [name for name in names if name in record]
    filled = [name for name in there if not is_blank(record[name])]
    if len(filled) > 1:
        raise ValueError(f"{place}: has both {filled[0]} and {filled[1]}; keep one")
    return (filled or there or names)[0]


def _refuse_other_than_numbers(name: str, value: object, place: str) -> None:
    if not isinstance(value, int | float):
        raise ValueError(
            f"{place}: {name}={value!r} is {type(value).__name__}; write it as a number, or rename the field"
        )
    if not abs(value) <= LARGEST:
        raise ValueError(f"{place}: {name}={value!r} is no finite number (float32); correct or remove it")


def _grade(name: str, value: int, place: str) -> int:
    if not 0 <= value < 10**LONGEST_GRADE:
        raise ValueError(
            f"{place}: {name}={value!r} is no grade; write 0 for an irrelevant passage, 1, 2 ... for a "
            "relevant one, or a score with a decimal point"
        )
    return int(value)
