"""What a reranker accepts: texts, pairs of texts, counts. All else is refused before any compute."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

Pair = tuple[str, str]
_TEXT = "give a str (a title and its text joined by a space)"


def checked_pairs(pairs: Iterable[Sequence[str]]) -> list[Pair]:
    """The (query, document) pairs as a list of tuples.

    Raises:
        ValueError: no list, something in it that is no pair of texts, or an empty query.
    """
    _check_listed(pairs, "pairs", "pairs of (query, document)")
    return [_checked_pair(pair, place) for place, pair in enumerate(pairs)]


def checked_documents(documents: Iterable[str]) -> list[str]:
    """The documents as a list.

    Raises:
        ValueError: no list, or something in it that is no text.
    """
    _check_listed(documents, "documents", "texts")
    if getattr(documents, "ndim", 1) != 1:  # a DataFrame, say, of which a loop gives the names of the columns
        raise ValueError("documents: a table, no list; give one column, e.g. frame['document'].tolist()")
    checked = list(documents)
    for place, document in enumerate(checked):
        _check_text(document, f"documents[{place}]")
    return checked


def check_query(query: object, name: str) -> None:
    """Raises a ValueError for a query that is no text or holds nothing but white space."""
    _check_text(query, name, "give one query, a str")
    if not str(query).strip():
        raise ValueError(f"{name}={query!r}: empty, so nothing is relevant to it; give a query")


def check_instruction(instruction: object) -> None:
    """Raises a ValueError for an instruction that is neither a text nor None."""
    if instruction is not None:
        _check_text(instruction, "instruction", "give a str, or None for the reranker's own")


def checked_source(source: object) -> str:
    """The name of a model, which may be a path.

    Raises:
        ValueError: neither a text nor a path.
    """
    if isinstance(source, PurePath):
        return str(source)
    _check_text(source, "source", "give a folder, a URL or a hub id")
    return str(source)


def plain_number(value: Any) -> Any:
    """A whole number of NumPy as one of Python; anything else as it is."""
    return int(value) if isinstance(value, np.integer) else value


def checked_count(count: int | None, name: str) -> int | None:
    """A number of results, or None for all.

    Raises:
        ValueError: not a whole number, or below 1.
    """
    if count is None:
        return None
    try:
        whole = operator.index(count)
    except TypeError as error:
        raise ValueError(f"{name}={count!r}: must be a whole number above 0, or None for all") from error
    if whole < 1:
        raise ValueError(f"{name}={count!r}: must be at least 1, or None for all")
    return whole


def _checked_pair(pair: object, place: int) -> Pair:
    if isinstance(pair, np.ndarray):  # a row of an array of pairs
        pair = pair.tolist()
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"pairs[{place}]: no pair of texts; give a list such as [(query, document)]")
    query, document = pair
    check_query(query, f"query of pairs[{place}]")
    _check_text(document, f"document of pairs[{place}]")
    return query, document


def _check_listed(values: object, name: str, wanted: str) -> None:
    if isinstance(values, str | bytes | Mapping) or not np.iterable(values):
        raise ValueError(f"{name}: {type(values).__name__} is no list; give a list of {wanted}")


def _check_text(text: object, name: str, remedy: str = _TEXT) -> None:
    if isinstance(text, bytes | bytearray):
        raise ValueError(f"{name}: bytes, not a text; decode it, e.g. with .decode('utf-8', 'replace')")
    if not isinstance(text, str):
        raise ValueError(f"{name}: {type(text).__name__}, not a text; {remedy}")
