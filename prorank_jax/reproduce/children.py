"""Runs a launcher in a process of its own, so that each model starts and ends with fresh memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prorank_jax.launching import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_SIGTERM, Interrupted

LAUNCHERS = Path(__file__).resolve().parents[2] / "launch"


def run_launcher(launcher: str, arguments: Sequence[str]) -> None:
    """Runs a file of launch/ to its end, on this console; SIGTERM and Ctrl-C are passed on to it.

    Raises:
        ValueError: it failed; it has said why on stderr.
        Interrupted: SIGTERM ended it.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    command = [sys.executable, str(LAUNCHERS / launcher), *arguments]
    with subprocess.Popen(command) as process:
        try:
            with _sigterm_passed_to(process) as received:
                code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    _raise_for(launcher, code, was_told_to_stop=bool(received))


def _raise_for(launcher: str, code: int, *, was_told_to_stop: bool) -> None:
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if was_told_to_stop or code in (EXIT_SIGTERM, -signal.SIGTERM):
        raise Interrupted(f"{launcher} was stopped; the same command goes on from there")
    if code == EXIT_BAD_INPUT:
        raise ValueError(f"launch/{launcher} refused its input; the line above says why")
    if code:
        raise ValueError(
            f"launch/{launcher} ended with exit code {code}; see above. The same command goes on from there"
        )


@contextmanager
def _sigterm_passed_to(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """A list that SIGTERM makes non-empty while the process is told, too."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def tell(number: int, _: object) -> None:
        received.append(number)
        process.terminate()

    previous = signal.signal(signal.SIGTERM, tell)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
