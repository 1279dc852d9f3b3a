"""Writes the pairs of a training run, for any teacher to score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prorank_jax.config import RunConfig
from prorank_jax.jsonl import valid_text
from prorank_jax.long_work import tracked
from prorank_jax.run_examples import training_groups
from prorank_jax.storage_faults import naming_place, whole_file
from prorank_jax.types import Candidate, RankingGroup


def write_training_pairs(config: RunConfig, file: Path) -> int:
    """Writes each query with every candidate that stage 2 may put into its lists; returns how many pairs.

    One JSON object a line: `query_id`, `query`, `document_id`, `passage` (title and text, of made queries as
    the run has them) and `grade`, in the order of the queries. The same file with the `score` that a teacher
    gives to each line is what `data.teacher_scores` may name.

    Raises:
        ValueError: a config of stage 1, a file that is there, or a source, split or flaw as in training.
        OSError: a fault of storage, with the file's name; nothing is left there.
    """
    if config.stage != 2:
        raise ValueError(f"stage={config.stage}: only stage 2 learns from a teacher; give a config of it")
    if file.exists():
        raise ValueError(f"{file}: is there; name a new file, or delete it")
    groups = training_groups(config)
    with naming_place(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with whole_file(file) as unfinished, unfinished.open("w", encoding="utf-8") as lines:
        for line in _lines(groups):
            lines.write(line)
            written += 1
    return written


def _lines(groups: Sequence[RankingGroup]) -> Iterator[str]:
    for group in tracked(groups, "writing pairs", len(groups)):
        # Copies under several ids are one pair, and of nothing there is no score.
        of_texts: dict[str, Candidate] = {}
        for candidate in group.candidates:
            of_texts.setdefault(candidate.document.full_text, candidate)
        for text, candidate in of_texts.items():
            if not text.strip():
                continue
            record: dict[str, Any] = {
                "query_id": group.query_id,
                "query": valid_text(group.query),
                "document_id": candidate.document.id,
                "passage": valid_text(text),
                "grade": candidate.grade,
            }
            yield json.dumps(record, ensure_ascii=False) + "\n"
