"""Lets a library's own training loop, which cannot be left and entered again, take one step a round."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class Stepper:
    """A training loop in a thread of its own that waits at each step until a round asks for it.

    The loop calls `arrive` between its steps: where it fetches a batch, or in a callback after an update.
    """

    def __init__(self, loop: Callable[[], object]) -> None:
        """Takes the loop; it starts with the first step."""
        self._loop = loop
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._here: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def arrive(self) -> None:
        """Called by the loop: what came before is done, and the next step waits for its round."""
        self._here.put(None)
        self._go.get()

    def step(self) -> float:
        """Lets the loop take one step; returns its seconds.

        Raises:
            RuntimeError: the loop failed or ended by itself.
        """
        if not self._thread.is_alive():
            self._thread.start()
            self._wait()  # what it does before its first step is no step
        started = time.perf_counter()
        self._go.put(None)
        self._wait()
        return time.perf_counter() - started

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._here.put(error)
        else:
            self._here.put(EOFError("the training loop ended"))

    def _wait(self) -> None:
        error = self._here.get()
        if error is not None:
            raise RuntimeError("the training loop stopped") from error
