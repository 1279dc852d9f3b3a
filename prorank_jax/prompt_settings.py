"""The prompt a model was trained with, as `prorank.json` in its folder: scores need the same one."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from prorank_jax.config_checks import require_choice
from prorank_jax.excerpts import EXCERPT_STYLES

SETTINGS_FILE = "prorank.json"
_LEAST_LENGTH = 16


@dataclass(frozen=True)
class PromptSettings:
    """What `prompts.make_renderer` needs beside the tokenizer.

    Attributes:
        system: the system sentence; empty: the model's own.
        instruction: a line before each query; empty: none.
        max_length: longest prompt in tokens, template included.
        excerpts: what is kept of a document that is too long; folders written before it was a choice do
            not name it, and mean `head`.
    """

    system: str
    instruction: str
    max_length: int
    excerpts: str = EXCERPT_STYLES[0]

    def __post_init__(self) -> None:
        for name in ("system", "instruction"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be a text; leave it empty for none")
        check_whole("system", self.system)
        if type(self.max_length) is not int or self.max_length < _LEAST_LENGTH:
            raise ValueError(
                f"max_length={self.max_length!r}: must be a whole number of at least {_LEAST_LENGTH}"
            )
        require_choice("excerpts", self.excerpts, EXCERPT_STYLES)


def check_whole(name: str, text: str) -> None:
    """Raises a ValueError for a text with half of a surrogate pair, which no file can hold."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name}={text!r}: holds half of a surrogate pair; write it whole")


def read_prompt_settings(folder: Path) -> PromptSettings | None:
    """The settings in a model folder; None where there are none (a model from elsewhere, a GGUF file).

    Raises:
        ValueError: a `prorank.json` that cannot be read, or holds a field or a value there cannot be.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{file}: cannot be read as JSON ({error}); export the model again") from error
    names = [field.name for field in fields(PromptSettings)]
    if not isinstance(content, dict) or {*content, "excerpts"} != set(names):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: must hold exactly {', '.join(names)}, not {found}; export the model again")
    try:
        return PromptSettings(**content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
