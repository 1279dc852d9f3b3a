"""Stand-in sides for the tests of the harness."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prorank_jax.benchmarks.side_process import SideProcess

SCRIPT = Path(__file__).with_name("stand_in_side.py")
PATIENCE = 60.0


def stand_in_command(name: str, folder: Path, **script: Any) -> list[str]:
    return [sys.executable, str(SCRIPT), name, json.dumps({"diary": str(folder / "diary"), **script})]


def stand_in(name: str, folder: Path, timeout: float = PATIENCE, **script: Any) -> SideProcess:
    command = stand_in_command(name, folder, **script)
    return SideProcess(name, command, timeout=timeout, log=folder / f"{name}.stderr")


def diary(folder: Path) -> list[str]:
    file = folder / "diary"
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
