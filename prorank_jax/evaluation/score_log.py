"""scores.jsonl: the model's raw scores, kept query by query so that an evaluation can be resumed.

The first line says what the scores belong to. Each other line is one query: its candidates in first-stage
order, their scores in the same order, the seconds they took, and the code and devices that gave them, which
may be others from line to line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prorank_jax.evaluation_scores import SCORES_FORMAT, WHOLE
from prorank_jax.run_folder import append_lines, write_text_atomically

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class QueryScores:
    """What a model says of one query's candidates.

    Attributes:
        documents: the candidates.
        scores: float32, in the same order.
        seconds: they took.
        scored_by: the code and devices that gave them; "" where that is not known.
    """

    documents: tuple[str, ...]
    scores: tuple[float, ...]
    seconds: float
    scored_by: str = ""


def scored_by(scores: Mapping[str, QueryScores]) -> dict[str, int]:
    """Code and devices that gave the scores ("": not known) → queries, in their order."""
    return dict(Counter(of_query.scored_by for of_query in scores.values()))


def name_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """`top_k is 100 there, 50 here`: the fields in which two headers differ, hashes last; empty: in none."""
    differing = (name for name in {**saved, **current} if saved.get(name) != current.get(name))
    fields = sorted(differing, key=lambda name: ("fingerprint" in name, name))
    return ", ".join(f"{name} is {saved.get(name)!r} there, {current.get(name)!r} here" for name in fields)


def _to_line(query: str, scores: QueryScores) -> str:
    record = {
        "query": query,
        "documents": list(scores.documents),
        "scores": list(scores.scores),
        "seconds": round(scores.seconds, 6),
        "scored_by": scores.scored_by,
    }
    return json.dumps(record, allow_nan=False) + "\n"


def _from_line(record: Any) -> tuple[str, QueryScores]:
    documents, scores = record["documents"], record["scores"]
    if len(documents) != len(scores):
        raise ValueError(f"{len(documents)} documents with {len(scores)} scores")
    seconds, scored_by = float(record["seconds"]), str(record.get("scored_by", ""))  # once it was not kept
    return record["query"], QueryScores(tuple(documents), tuple(map(float, scores)), seconds, scored_by)


def _read(file: Path, header: Mapping[str, Any]) -> dict[str, QueryScores]:
    whole, _, _torn = file.read_bytes().rpartition(b"\n")
    if not whole:
        return {}
    done: dict[str, QueryScores] = {}
    for number, line in enumerate(whole.split(b"\n"), start=1):
        try:
            record = json.loads(line)
            if number > 1:
                query, scores = _from_line(record)
                done[query] = scores
        except (ValueError, TypeError, KeyError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise _damaged(file, number, error) from error
        if number == 1:
            _check_header(file, record, header)
    return done


def _check_header(file: Path, saved: Any, header: Mapping[str, Any]) -> None:
    if not isinstance(saved, dict) or "format" not in saved:
        raise ValueError(f"{file}, line 1: not the scores of an evaluation; name another output_dir")
    # It follows from the first stage, which the header has too.
    unwritten = {name: header[name] for name in (WHOLE,) if name in header}
    differences = name_differences({**unwritten, **saved}, header)
    if differences:
        raise ValueError(
            f"{file}: belongs to another evaluation ({differences}); name another output_dir, or repeat that "
            "evaluation to resume it"
        )


def check_begun(file: Path, part: Mapping[str, Any]) -> None:
    """Refuses a file of scores, which need not be there, by what of its header is known before a model is.

    Raises:
        ValueError: it belongs to another evaluation (names the fields), or is damaged.
    """
    if not file.is_file():
        return
    with file.open("rb") as log:
        first = log.readline()
    if not first.endswith(b"\n"):
        return  # cut off, and begun again
    try:
        saved = json.loads(first)
    except ValueError as error:
        raise _damaged(file, 1, error) from error
    known = json.loads(json.dumps(part))
    _check_header(file, saved, {**saved, **known} if isinstance(saved, dict) else known)


def _damaged(file: Path, line: int, error: Exception) -> ValueError:
    return ValueError(
        f"{file}, line {line}: damaged ({error}); delete the file to score again, or name another output_dir"
    )


class ScoreLog:
    """The scores of one dataset on disk; opening it again goes on where it stopped."""

    def __init__(self, file: Path, header: Mapping[str, Any], scored_by: str = "") -> None:
        """Reads what is there; a last line that was cut off is dropped.

        Args:
            file: scores.jsonl; its folder must exist.
            header: what decides the scores, as JSON values.
            scored_by: the code and devices of what is added.

        Raises:
            ValueError: the file belongs to another evaluation (names the fields), or is damaged.
        """
        self._file = file
        self._scored_by = scored_by
        # As JSON reads them back: tuples become lists.
        self._header = json.loads(json.dumps({"format": SCORES_FORMAT, **header}))
        self.done: dict[str, QueryScores] = _read(file, self._header) if file.is_file() else {}

    def begin(self, kept: Iterable[str]) -> None:
        """Makes the file hold the header and the scores of these queries, and nothing else."""
        self.done = {query: self.done[query] for query in kept}
        lines = [_to_line(query, scores) for query, scores in self.done.items()]
        write_text_atomically(self._file, json.dumps(self._header) + "\n" + "".join(lines))

    def add(self, scored: Mapping[str, QueryScores]) -> None:
        """Appends finished queries."""
        scored = {query: replace(scores, scored_by=self._scored_by) for query, scores in scored.items()}
        lines = "".join(_to_line(query, scores) for query, scores in scored.items())
        append_lines(self._file, lines)
        self.done |= scored
