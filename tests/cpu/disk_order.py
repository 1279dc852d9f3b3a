"""What reached the disk before it got its name, as a machine that goes down would tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class DiskOrder:
    """Notes each file that gets a name.

    Attributes:
        too_early: files that had not reached the disk by then.
        named: how many got a name at all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.too_early: list[str] = []
        self.named = 0
        self._synced: set[int] = set()
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            sync(descriptor)
            self._synced.add(os.fstat(descriptor).st_ino)

        monkeypatch.setattr(os, "fsync", fsync)
        for how in ("rename", "replace"):
            monkeypatch.setattr(Path, how, self._noting(getattr(Path, how)))

    def _noting(self, move):
        def noted(path: Path, target: Path) -> Path:
            files = [file for file in (path, *path.rglob("*")) if file.is_file()]
            self.too_early += [file.name for file in files if file.stat().st_ino not in self._synced]
            self.named += len(files)
            return move(path, target)

        return noted
