"""What a page holds: fenced blocks, code spans, headings and links. CommonMark as far as it goes there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = "```"
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#{1,6} +(.+?) *$")


@dataclass(frozen=True)
class Piece:
    """A piece of the text, and the number of the line it begins on, from 1."""

    text: str
    line: int


@dataclass(frozen=True)
class Block(Piece):
    """A fenced block and the language named behind its fence, if any."""

    language: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks.

    Raises:
        ValueError: a fence that is not closed.
    """
    found: list[Block] = []
    opened: tuple[str, int] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith(FENCE):
            inside.append(line)
        elif opened is None:
            opened, inside = (line.strip().removeprefix(FENCE).strip(), number + 1), []
        else:
            found.append(Block("\n".join(inside), opened[1], opened[0]))
            opened = None
    if opened is not None:
        raise ValueError(f"line {opened[1] - 1}: the fence is not closed")
    return found


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines outside of fenced blocks, with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        is_fence = line.lstrip().startswith(FENCE)
        if not is_fence and not is_code:
            yield number, line
        is_code ^= is_fence


def spans(text: str) -> list[Piece]:
    """The code spans; those of a table have no escapes for its bars."""
    return [
        Piece(match[2].strip().replace(r"\|", "|"), number)
        for number, line in _prose(text)
        for match in _SPAN.finditer(line)
    ]


def link_targets(text: str) -> list[Piece]:
    """Where links lead to."""
    return [
        Piece(match[1], number)
        for number, line in _prose(text)
        for match in _LINK.finditer(_SPAN.sub("code", line))
    ]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings."""
    names: list[str] = []
    for _, line in _prose(text):
        heading = _HEADING.match(line)
        if heading:
            words = re.sub(r"[^\w\- ]", "", heading[1].lower())
            names.append(words.replace(" ", "-"))
    return {f"{name}-{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)}
