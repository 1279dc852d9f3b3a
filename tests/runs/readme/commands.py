"""The commands of the pages, as a shell would read them.

A fenced block without a language is a shell's. Of the code spans in the text those are commands that begin
as one; a name of a file alone is none, and `[--option VALUE]` may be left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from prorank_jax.benchmarks.command import ALONE
from prorank_jax.benchmarks.tasks import TASKS
from tests.runs.readme.markdown import Block, Piece, blocks, spans
from tests.runs.readme.pages import FIRST_PAGE

SHELLS = ("", "sh", "bash", "console")
# What is in a fenced block without being run: `python` has a test of its own, `text` is what a program says.
OTHER_LANGUAGES = ("python", "text", "json", "yaml")
BEGINNINGS = ("python ", "make ", "pytest", "pip ", "launch/")
# Arguments of launch/benchmark.py stand alone in the table of its results.
BENCHMARKS = (*TASKS, *ALONE)
BENCHMARK_LAUNCHER = "launch/benchmark.py"
# What `--section.field VALUE ...` stands for.
ANY_FIELD = ("--checkpoint.keep", "1")
_OPTIONAL = re.compile(r"(?<=\s)\[(--[^\[\]]*)\]")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
# What may stand in front of a program without changing which one it is.
_BEFORE_PROGRAM = re.compile(r"([A-Z_]+=\S+ +)*(\.venv/bin/)?")
AND_SO_ON = "..."


@dataclass(frozen=True)
class Command:
    """One program with its arguments.

    Attributes:
        text: as it stands on the page, lines joined and comments left out.
        line: where it first stands.
        page: the path of that page.
    """

    text: str
    line: int
    page: str = FIRST_PAGE

    @property
    def words(self) -> list[str]:
        """What the shell passes on, optional parts included as they are."""
        return shlex.split(self.text)[len(self.environment) :]

    @property
    def environment(self) -> list[str]:
        """The assignments in front of the program."""
        words = shlex.split(self.text)
        return words[: next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))]

    @property
    def variants(self) -> list[list[str]]:
        """The words without any optional part, and if there is one, with all, choice by choice."""
        if not _OPTIONAL.search(self.text):
            return [_spelled_out(self.words)]
        without, full = (Command(_OPTIONAL.sub(kept, self.text), self.line) for kept in ("", r"\1"))
        words = _spelled_out(full.words)
        choices = max(len(word.split("|")) for word in words)
        chosen = [[_choice(word, number) for word in words] for number in range(choices)]
        return [_spelled_out(without.words), *chosen]


def _choice(word: str, number: int) -> str:
    """One of `fixed|grow`."""
    choices = word.split("|")
    return choices[number % len(choices)]


def _spelled_out(words: list[str]) -> list[str]:
    """`--option ...` with the value that stood before; a field for `--section.field`; no `...` elsewhere."""
    given: list[str] = []
    for word in words:
        if word != AND_SO_ON:
            given.append(word)
        elif given[-1] in given[:-1]:
            given.append(given[given.index(given[-1]) + 1])
    if "--section.field" in given:
        at = given.index("--section.field")
        given[at : at + 2] = ANY_FIELD
    return given


def shell_commands(block: Block) -> list[Command]:
    """The commands of a shell's block: continued lines joined, comments dropped, `&&` apart."""
    found: list[Command] = []
    begun, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        start = start if begun else number
        begun += line.removesuffix("\\").strip() + " "
        if not line.endswith("\\") and not _has_open_quote(begun):
            found += split_line(begun, start)
            begun = ""
    return found + split_line(begun, start)


def _has_open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def split_line(text: str, line: int) -> list[Command]:
    """The commands of one line."""
    lexer = shlex.shlex(text, posix=False, punctuation_chars="&;")
    lexer.whitespace_split = True
    commands = [
        " ".join(words) for ends, words in groupby(lexer, lambda word: set(word) <= {"&", ";"}) if not ends
    ]
    return [Command(text, line) for text in commands]


def is_command(span: str) -> bool:
    """Whether a code span is to be typed, and not the name of a file or a fragment."""
    first, *rest = span.split()
    if first in BENCHMARKS:
        return bool(rest)
    is_file_alone = first.startswith("launch/") and not rest
    return _BEFORE_PROGRAM.sub("", span, count=1).startswith(BEGINNINGS) and not is_file_alone


def _from_span(span: Piece) -> list[Command]:
    launcher = f"python {BENCHMARK_LAUNCHER} " if span.text.split()[0] in BENCHMARKS else ""
    return split_line(launcher + span.text, span.line)


def commands_of(text: str) -> list[Command]:
    """Every command of a page once, in order.

    Raises:
        ValueError: a fenced block in a language that is not known here.
    """
    found: dict[str, Command] = {}
    for block in blocks(text):
        if block.language not in (*SHELLS, *OTHER_LANGUAGES):
            raise ValueError(
                f"line {block.line}: a block in {block.language!r}; say in {__name__} what it is"
            )
    given = [
        command for block in blocks(text) if block.language in SHELLS for command in shell_commands(block)
    ]
    given += [command for span in spans(text) if is_command(span.text) for command in _from_span(span)]
    for command in sorted(given, key=lambda command: command.line):
        found.setdefault(command.text, command)
    return list(found.values())


def commands_of_pages(pages: Mapping[str, str]) -> list[Command]:
    """Every command of several pages once, with the first page that has it."""
    found: dict[str, Command] = {}
    for page, text in pages.items():
        for command in commands_of(text):
            found.setdefault(command.text, replace(command, page=page))
    return list(found.values())
