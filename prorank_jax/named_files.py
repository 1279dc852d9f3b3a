"""Files that a config names beside its source: a teacher's scores, and a run that negatives come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from prorank_jax.config import DataOptions
from prorank_jax.jsonl import PACKED, opened_unpacked
from prorank_jax.local_sources import local_source


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_of(files: Iterable[Path]) -> dict[str, str]:
    """The name of each file and the SHA-256 of its content, both as if it were unpacked.

    So it says of texts whether they are the same, however they are kept, and however they were packed.

    Raises:
        ValueError: a file that cannot be unpacked.
    """
    content: dict[str, str] = {}
    for path in files:
        with opened_unpacked(path) as file:
            content[path.name.removesuffix(PACKED)] = hashlib.file_digest(file, "sha256").hexdigest()
    return content


def _file_of(field: str, value: str, remedy: str) -> Path | None:
    if not value:
        return None
    file = Path(local_source(value, field))
    if not file.is_file():
        raise ValueError(f"{field}={value!r}: no such file; {remedy}")
    return file


def teacher_file(options: DataOptions) -> Path | None:
    """The file of the teacher's scores on this machine; None without a teacher.

    Raises:
        ValueError: no such file, or a URL that cannot be reached.
    """
    return _file_of(
        "data.teacher_scores",
        options.teacher_scores,
        "name a TREC run, a TSV, a scores.jsonl or scored pairs",
    )


def negatives_file(options: DataOptions) -> Path | None:
    """The file of the run that negatives come from on this machine; None where BM25 finds them.

    Raises:
        ValueError: no such file, or a URL that cannot be reached.
    """
    return _file_of("data.negatives_run", options.negatives_run, "name a TREC run of the training queries")


def teacher_fingerprint(options: DataOptions) -> str:
    """What decides the content of the teacher's scores: empty without a teacher, else the file's hash.

    Raises:
        ValueError: no such file.
    """
    file = teacher_file(options)
    return "" if file is None else hash_file(file)
