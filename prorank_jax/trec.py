"""Run files of TREC: `query Q0 document rank score tag` on each line."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prorank_jax.jsonl import read_lines
from prorank_jax.messages import name_a_few
from prorank_jax.run_folder import write_text_atomically

if TYPE_CHECKING:  # importing a collection imports jax, which evaluation does without
    from prorank_jax.collection import Collection

_log = logging.getLogger(__name__)

Rankings = Mapping[str, Sequence[str]]
Scores = dict[str, dict[str, float]]
COLUMNS = "query Q0 document rank score tag"


class _Line(NamedTuple):
    document: str
    rank: int
    score: float
    number: int


def write_run(file: Path, rankings: Rankings, tag: str) -> None:
    """Writes document ids, best first, so that every tool reads them in this order.

    Tools sort by score and break ties each in its own way; some hold scores in float32. So the score
    is the number of documents from this one to the end: integers that fall by one. A model's own scores
    would tie.

    Args:
        file: is replaced as a whole.
        rankings: query id → document ids, best first.
        tag: the name of the system, without white space.
    """
    lines = [
        f"{query} Q0 {document} {rank} {len(documents) - rank + 1} {tag}\n"
        for query, documents in rankings.items()
        for rank, document in enumerate(documents, start=1)
    ]
    write_text_atomically(file, "".join(lines))


def check_writable_ids(rankings: Rankings) -> None:
    """Refuses ids that a run file, whose columns are separated by white space, cannot hold.

    Raises:
        ValueError: names the id.
    """
    for query, documents in rankings.items():
        for identifier in (query, *documents):
            if identifier.split() != [identifier]:
                raise ValueError(f"the id {identifier!r} holds white space; TREC run files need ids without")


def _parse(file: Path, number: int, line: str) -> tuple[str, _Line]:
    columns = line.split()
    place = f"{file}, line {number}"
    if len(columns) != 6:
        raise ValueError(f"{place}: {len(columns)} columns; a TREC run has six: {COLUMNS}")
    query, _, document, rank, score, _ = columns
    try:
        parsed = _Line(document, int(rank), float(score), number)
    except ValueError as error:
        raise ValueError(
            f"{place}: rank {rank!r} and score {score!r} must be an integer and a number"
        ) from error
    if not math.isfinite(parsed.score):
        raise ValueError(f"{place}: the score is {score}; a ranking needs finite scores")
    return query, parsed


def _order(lines: list[_Line], file: Path) -> list[_Line]:
    """By score; ties by rank where the ranks tell documents apart, else as trec_eval: last id first."""
    if len({line.rank for line in lines}) < len(lines):
        lines = sorted(lines, key=lambda line: line.document.encode(), reverse=True)
        return sorted(lines, key=lambda line: -line.score)
    ordered = sorted(lines, key=lambda line: (-line.score, line.rank))
    for better, worse in itertools.pairwise(ordered):
        if worse.rank < better.rank:
            raise ValueError(
                f"{file}, line {worse.number}: rank {worse.rank} has a score of {worse.score:g}, "
                f"below {better.score:g} of rank {better.rank} in line {better.number}; "
                "better ranks need higher scores"
            )
    return ordered


def read_run(file: Path, wanted: Container[str] | None = None) -> dict[str, list[str]]:
    """The document ids of each query of a run file, best first.

    Args:
        wanted: see `read_scores`.

    Raises:
        ValueError: as `read_scores`.
    """
    return {query: list(scores) for query, scores in read_scores(file, wanted).items()}


def read_scores(file: Path, wanted: Container[str] | None = None) -> Scores:
    """The scores of a run file: query id → document id → score, the documents in their order, best first.

    Args:
        wanted: queries to keep, of a run that may rank far more; None: all.

    Raises:
        ValueError: the file is missing, empty or no run, names a document twice for one query, or its
            ranks contradict its scores.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such run file; name a TREC run ({COLUMNS})")
    lines: dict[str, dict[str, _Line]] = {}
    number = 0
    for number, text in read_lines(file):
        query, line = _parse(file, number, text)
        if wanted is not None and query not in wanted:
            continue
        first = lines.setdefault(query, {}).setdefault(line.document, line)
        if first is not line:
            raise ValueError(
                f"{file}, line {number}: the document {line.document!r} was there before for the query "
                f"{query!r} (line {first.number}); keep one"
            )
    if not number:
        raise ValueError(f"{file}: holds no line; a TREC run has {COLUMNS} on each")
    ordered = {query: _order(list(documents.values()), file) for query, documents in lines.items()}
    return {query: {line.document: line.score for line in ranking} for query, ranking in ordered.items()}


def scores_of(file: Path, run: Scores, collection: Collection) -> Scores:
    """The scores of a run file that ranks documents of the collection.

    Other queries of it are left out, with a warning: a run may rank the queries of all splits.

    Args:
        run: what `read_scores` gave of the file.

    Raises:
        ValueError: it names documents that the collection lacks, or none of its queries.
    """
    known = {query: scores for query, scores in run.items() if query in collection.queries}
    ranked = {document for documents in known.values() for document in documents}
    absent = {
        "queries": set() if known else set(run),
        "documents": {document for document in ranked if not collection.holds(document)},
    }
    for kind, ids in absent.items():
        if ids:
            raise ValueError(
                f"{file}: names {len(ids)} {kind} that {collection.name} lacks ({name_a_few(ids)}); "
                "give a run of this dataset"
            )
    left_out = run.keys() - known.keys()
    if left_out:
        _log.warning(
            "%s: %d of its %d queries are not among those of %s (%s); they are left out",
            file,
            len(left_out),
            len(run),
            collection.name,
            name_a_few(left_out),
        )
    return known
