"""A side of a benchmark as the harness sees it: a process that answers requests, or says why it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prorank_jax.storage_faults import TooLittleMemoryError

SHOWN_LINES = 25
END_SECONDS = 20
# How Python, torch, jax and C++ end for want of memory.
_NO_ROOM = re.compile(
    r"^[\w.]*(MemoryError\b|Error: .*(out of memory|RESOURCE_EXHAUSTED|allocate memory|ALLOC_FAILED"
    r"|create a memory object))|std::bad_alloc",
    re.MULTILINE | re.IGNORECASE,
)
_KILLED = -signal.SIGKILL  # what Linux does to the process that takes most where no memory is left

Answer = dict[str, Any]


class SideProcess:
    """One side, started with the `with` statement and ended with it, whatever happens.

    Attributes:
        name: what messages and tables call it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout: float,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            name: of this side.
            command: the program and its arguments.
            timeout: seconds it has for each answer.
            log: file for what it writes to stderr.
            environment: of the process; None: this process's own.
        """
        self.name = name
        self._command = list(command)
        self._timeout = timeout
        self._log = log
        self._environment = environment
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Starts the process.

        Raises:
            ValueError: its program is not there.
        """
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=None if self._environment is None else dict(self._environment),
                    text=True,
                    encoding="utf-8",
                    process_group=0,  # so that what it starts ends with it
                )
        except OSError as error:
            raise ValueError(f"{self.name}: cannot start {self._command[0]!r} ({error.strerror})") from error
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Asks it to end, and kills it if it does not, at once after an error."""
        if kind is None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._send({"do": "end"})
                self._process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def ask(self, request: str, **details: Any) -> Answer:
        """Sends one request and waits for its answer.

        Raises:
            ValueError: the side ended, did not answer in time, or answered with no JSON object; the end of
                its stderr is shown before.
            TooLittleMemoryError: it ended for want of memory; likewise.
        """
        with contextlib.suppress(BrokenPipeError):  # it ended: reading says so
            self._send({"do": request, **details})
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise self._failure(request, f"no answer within {self._timeout:g} seconds") from None
        if not line:
            code = self._process.wait()
            failure = self._failure(request, f"ended with exit code {code}")
            if self._lacked_memory(code):
                raise TooLittleMemoryError(f"too little memory ({failure})")
            raise failure
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failure(request, f"answered {line.strip()[:80]!r}, no JSON object")
        return answer

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        """Passes lines on; an empty one says that there will be no more."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed while reading
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _lacked_memory(self, code: int) -> bool:
        return code == _KILLED or _NO_ROOM.search(self._said()) is not None

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _failure(self, request: str, what: str) -> ValueError:
        said = self._said().splitlines()[-SHOWN_LINES:]
        for line in said:
            print(f"{self.name}: {line}", file=sys.stderr)
        shown = "its last lines are above" if said else "it wrote nothing to stderr"
        return ValueError(f"{self.name}: asked to {request}: {what}; {shown}")
