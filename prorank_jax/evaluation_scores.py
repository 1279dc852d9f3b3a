"""The scores.jsonl of an evaluation as others read it: whole, and with what it belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prorank_jax.jsonl import read_lines

SCORES_FORMAT = 1
# In the header: how many queries a whole file holds. Earlier versions did not write it.
WHOLE = "queries_with_candidates"
_CUT_OFF = "an evaluation that was stopped may have cut it off; repeat that evaluation, which goes on"

ScoredPair = tuple[str, str, str, str]
"""Place (`file, line n`), query id, document id, and the score as text."""


def header_of(path: Path) -> Mapping[str, Any] | None:
    """What the first line says the scores belong to; None where that line is no JSON object.

    Raises:
        ValueError: an object, but not an evaluation's; or as `read_lines`.
    """
    number, line = next(read_lines(path), (1, ""))
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    has_texts = "dataset" in header and isinstance(header.get("dataset_fingerprint"), dict)
    if header.get("format") != SCORES_FORMAT or not has_texts:
        raise ValueError(
            f"{path}, line {number}: JSON, but not the first line of an evaluation's scores.jsonl; name one, "
            "a TREC run, a TSV, or pairs with query, passage and score"
        )
    return header


def scored_pairs(path: Path) -> Iterator[ScoredPair]:
    """Every pair that the evaluation scored, in the file's order.

    Raises:
        ValueError: a line that is not a query's scores, or fewer queries than the evaluation has.
    """
    lines = read_lines(path)
    header = json.loads(next(lines)[1])
    queries = 0
    for number, line in lines:
        place = f"{path}, line {number}"
        query, documents, scores = _of_query(line, place)
        queries += 1
        for document, score in zip(documents, scores, strict=True):
            yield place, query, document, repr(score)
    whole = header.get(WHOLE, queries)
    if queries != whole:
        raise ValueError(
            f"{path}: holds {queries} of the {whole} queries of its evaluation, which was stopped; repeat "
            "that evaluation, which goes on"
        )


def _of_query(line: str, place: str) -> tuple[str, list[str], list[float]]:
    try:
        record = json.loads(line)
        query, documents, scores = record["query"], record["documents"], record["scores"]
        are_texts = isinstance(documents, list) and all(isinstance(name, str) for name in (query, *documents))
        are_numbers = all(type(score) in (int, float) for score in scores)
        if not are_texts or not are_numbers or len(documents) != len(scores):
            raise ValueError("needs ids that are texts, and a number for each document")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{place}: not the scores of a query ({error}); {_CUT_OFF}") from error
    return query, documents, scores
