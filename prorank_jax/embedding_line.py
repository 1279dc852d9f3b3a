"""One line of a training file: FlagEmbedding's fields, or the columns of sentence-transformers' data sets.

Those have a relevant passage and irrelevant ones on each line, or one passage with a label (`pair_line`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from prorank_jax.jsonl import take_filled_text, valid_text
from prorank_jax.pair_line import (
    PAIRS,
    PASSAGES,
    LabelledPair,
    is_blank,
    is_pair,
    lacks_label,
    read_pair,
    refuse_other_labels,
)
from prorank_jax.teacher_scores import LARGEST

Scored = list[tuple[str, float | None]]
"""Passages, each with its teacher's score."""

_LISTS = ("pos", "neg", "pos_scores", "neg_scores")
_COLUMN = re.compile("anchor|positive|negative(_[0-9]+)?")
_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What people call passages, as a word of a name: `posted_by` and `position` are of other words.
_SIDE = re.compile("(hard)?(pos|positive|neg|negative)s?")
# What may stand beside passages and be called after them.
_ABOUT_PASSAGES = re.compile("(id|score|tag|count)s?")
FORMATS = (
    "a line has query and pos, and neg unless it is mined; or anchor (or query) and positive, and negative, "
    f"negative_1 and so on; or {PAIRS}"
)


@dataclass(frozen=True)
class EmbeddingLine:
    """A query with passages that are relevant to it and passages that are not, or with a labelled one.

    Attributes:
        lacks_label: the line is a relevant passage unless its file has labelled pairs; then it is a mistake.
    """

    id: str
    query: str
    relevant: Scored
    irrelevant: Scored
    pair: LabelledPair | None = None
    lacks_label: bool = False


def read_line(record: dict[str, Any], place: str) -> EmbeddingLine:
    """What a line says, in whichever of the formats it is.

    FlagEmbedding's has `query`, lists `pos` and `neg`, and a teacher's `pos_scores` and `neg_scores`; the
    other `anchor` or `query`, and `positive`, `negative`, `negative_1` …: a text each, or a list of texts.
    Without negatives there are none; a column of them that is null or blank on a line is not there. A line
    with neither is a labelled pair; see `read_pair`. `id` is taken, other fields are ignored where they hold
    no passages.

    Args:
        place: file and line, for messages.

    Raises:
        ValueError: fields of both formats, a field that is missing or of another type, or one that looks
            like passages and is none of these.
    """
    lists = [name for name in record if name in _LISTS]
    columns = [name for name in record if _COLUMN.fullmatch(name)]
    if lists and columns:
        raise ValueError(f"{place}: {lists[0]!r} and {columns[0]!r} are of two formats; {FORMATS}")
    negatives = [name for name in columns if name.startswith("negative")]
    if not lists and not negatives and is_pair(record):
        _refuse_unread(record, {*PASSAGES}, place)
        pair = read_pair(record, place)
        return EmbeddingLine(_line_id(record, place), pair.query, [], [], pair)
    if columns and not negatives:
        refuse_other_labels(record, place)
    _refuse_unread(record, {*lists, *columns}, place)
    asked = "anchor" if "anchor" in columns else "query"
    if asked == "anchor" and "query" in record:
        raise ValueError(f"{place}: has both query and anchor; keep one")
    if columns:
        # A table has all columns on every line: null where there is nothing, or "" if it was a CSV file.
        given = [name for name in negatives if not is_blank(record[name])]
        relevant, irrelevant = (_unscored(record, names, place) for names in (["positive"], given))
    else:
        relevant, irrelevant = (_scored(record, name, place) for name in ("pos", "neg"))
    if not all(text.strip() for text, _ in relevant):
        name = "positive" if columns else "pos"
        raise ValueError(f"{place}: {name} holds an empty passage; give it a text or leave it out")
    query = take_filled_text(record, asked, place)
    lacking = not negatives and lacks_label(record)
    return EmbeddingLine(_line_id(record, place), query, relevant, irrelevant, lacks_label=lacking)


def _refuse_unread(record: dict[str, Any], read: set[str], place: str) -> None:
    for name, value in record.items():
        if name not in read and _names_passages(name) and _holds_text(value):
            raise ValueError(
                f"{place}: {name!r} looks like passages, and is not read; rename or remove it: {FORMATS}"
            )


def _names_passages(name: str) -> bool:
    """Whether a name is made as those of passages: `negs`, `positive_1`, `bm25Negatives`, `hard`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(map(_ABOUT_PASSAGES.fullmatch, words)):
        return False
    return words == ["hard"] or any(map(_SIDE.fullmatch, words))


def _holds_text(value: object) -> bool:
    if isinstance(value, list):
        return any(item and isinstance(item, str | list | dict) for item in value)
    return isinstance(value, dict) or (isinstance(value, str) and bool(value.strip()))


def _line_id(record: dict[str, Any], place: str) -> str:
    identifier = record.get("id")
    if identifier is None:
        return f"line-{place.rsplit(' ', 1)[-1]}"
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise ValueError(f"{place}: id={identifier!r} is {type(identifier).__name__}; write it as a string")
    return valid_text(str(identifier))


def _unscored(record: dict[str, Any], names: list[str], place: str) -> Scored:
    """The passages of columns."""
    found: Scored = []
    for name in names:
        _refuse_absent(record, name, place)
        value = record[name]
        texts = [value] if isinstance(value, str) else value
        if not _are_texts(texts):
            raise ValueError(f"{place}: {name} must be a string or a list of strings")
        found += [(valid_text(text), None) for text in texts]
    return found


def _scored(record: dict[str, Any], name: str, place: str) -> Scored:
    """The passages of one of FlagEmbedding's lists; none without `neg`."""
    if name == "pos":
        _refuse_absent(record, name, place)
    passages = record.get(name, [])
    if not _are_texts(passages):
        raise ValueError(f"{place}: {name} must be a list of strings")
    scores = _scores(record, f"{name}_scores", len(passages), place)
    return list(zip(map(valid_text, passages), scores, strict=True))


def _refuse_absent(record: dict[str, Any], name: str, place: str) -> None:
    if name not in record:
        raise ValueError(f"{place}: no field {name!r}; {FORMATS}")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _scores(record: dict[str, Any], name: str, count: int, place: str) -> list[float | None]:
    scores = record.get(name)
    if scores is None:
        return [None] * count
    if not isinstance(scores, list) or not all(_is_finite_number(score) for score in scores):
        raise ValueError(f"{place}: {name} must be a list of finite numbers (float32)")
    if len(scores) != count:
        raise ValueError(f"{place}: {name} has {len(scores)} numbers for {count} passages; give one for each")
    return [float(score) for score in scores]


def _is_finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
