"""Reads UTF-8 files line by line, packed ones too; every problem names the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

_GZIP = b"\x1f\x8b"
PACKED = ".gz"
MAX_LINE_BYTES = 64 << 20


def _raw_lines(path: Path) -> Iterator[bytes]:
    with opened_unpacked(path) as file:
        yield from iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")


@contextmanager
def opened_unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """The bytes of a file; one named `.gz` is unpacked.

    Raises:
        ValueError: it cannot be unpacked.
    """
    with gzip.open(path) if path.suffix == PACKED else path.open("rb") as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: cannot be unpacked ({error}); pack it again with gzip, or name it without {PACKED}"
            ) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line that is not blank; a file named `.gz` is unpacked.

    Raises:
        ValueError: the file is not UTF-8, cannot be unpacked, or a line is longer than `MAX_LINE_BYTES`.
    """
    for number, raw in enumerate(_raw_lines(path), start=1):
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(
                f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes; write a record on each line"
            )
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            remedy = "unpack it with gunzip" if raw.startswith(_GZIP) else "save the file as UTF-8"
            raise ValueError(
                f"{path}, line {number}: byte {error.start + 1} is not UTF-8; {remedy}"
            ) from error
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place (`file, line n`) and the object of each line.

    Raises:
        ValueError: a line that is not UTF-8, not JSON, or not an object.
    """
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a ValueError of its own where a number is too long
            told = str(error).partition(";")[0]
            raise ValueError(f"{place}: not JSON ({told}); write one JSON object on each line") from error
        if not isinstance(record, dict):
            raise ValueError(f"{place}: {type(record).__name__} instead of an object; write {{...}}")
        yield place, record


def valid_text(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def take_text(record: dict[str, Any], name: str, place: str) -> str:
    """The text of a field that must be there.

    Raises:
        ValueError: the field is missing or no text.
    """
    if name not in record:
        there = ", ".join(map(repr, record)) or "none"
        raise ValueError(f"{place}: no field {name!r} (there: {there}); add it")
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{place}: {name}={value!r} is {type(value).__name__}; write it as a string")
    return valid_text(value)


def take_filled_text(record: dict[str, Any], name: str, place: str) -> str:
    """`take_text` of a field that must not be empty.

    Raises:
        ValueError: as `take_text`, or there are only blanks.
    """
    text = take_text(record, name, place)
    if not text.strip():
        raise ValueError(f"{place}: {name} is empty; give it a text or leave the line out")
    return text
