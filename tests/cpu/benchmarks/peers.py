"""Imports programs of launch/peers, which are no package."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.cpu.tiny_run import REPOSITORY


def load_peer(name: str) -> ModuleType:
    folder = str(REPOSITORY / "launch" / "peers")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
