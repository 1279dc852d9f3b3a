"""Runs trials on a disk of their own, which is full or read-only at moments of choice.

The disk is a tmpfs that a child process mounts where nobody else sees it; it goes with the process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cpu.tiny_run import REPOSITORY

PRIVATE = ("unshare", "--map-root-user", "--mount")
_SIZE = "16m"
_PATIENCE_SECONDS = 1200


@functools.cache
def _why_not() -> str:
    """Why no disk can be mounted here; empty if one can."""
    command = [*PRIVATE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return f"no private mounts here ({error})"
    return f"no private mounts here ({done.stderr.strip()})" if done.returncode else ""


def run_trials(trials: str, folder: Path, arguments: Sequence[object]) -> dict[str, Any]:
    """What `tests.runs.full_disk_trials` says of its trials, made in a folder with a disk below it."""
    if _why_not():
        pytest.skip(_why_not())
    command = [*PRIVATE, sys.executable, "-m", "tests.runs.full_disk_trials", trials, str(folder)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


class Disk:
    """A mounted disk; only in a process that was started with `PRIVATE`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder)], check=True)
        self.folder = folder

    def _free(self) -> int:
        facts = os.statvfs(self.folder)
        return facts.f_bavail * facts.f_frsize

    @contextmanager
    def with_free(self, kib: int) -> Iterator[None]:
        """Within, so many KiB are free when it begins."""
        filler = self.folder / "filler"
        filler.write_bytes(bytes(self._free() - 1024 * kib))
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Within, nothing can be written."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)
