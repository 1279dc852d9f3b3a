"""Checks of a config's fields: each failure is a ValueError with the field, the value and the remedy."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r}: {remedy}")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    require(value in choices, name, value, f"choose one of {', '.join(choices)}")


def require_at_least(name: str, value: float, bound: float) -> None:
    require(bound <= value < math.inf, name, value, f"must be at least {bound}")


def require_positive(name: str, value: float) -> None:
    require(0 < value < math.inf, name, value, "must be a finite number above 0")


def require_new_file(name: str, file: Path) -> None:
    """Before the work whose result it is to hold."""
    require(not file.exists(), name, str(file), "is there already; name another file or remove it")
    folder = file.parent
    require(folder.is_dir(), name, str(file), f"there is no folder {str(folder)!r}; make it first")
    require(os.access(folder, os.W_OK), name, str(file), f"{str(folder)!r} cannot be written to")
