"""A trace of a few training steps, once the first ones have compiled."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

TRACE_FOLDER = "profile"
STEPS_BEFORE = 2  # of this process: the first compiles, the second still waits for it


class StepTrace:
    """Records some steps of a run with jax's profiler, for xprof or Perfetto."""

    def __init__(self, folder: Path, first_step: int, steps: int) -> None:
        """Records nothing yet.

        Args:
            folder: that the trace goes to.
            first_step: of this process.
            steps: how many are recorded; 0: none.
        """
        self._folder = folder
        self._first = first_step + STEPS_BEFORE
        self._last = self._first + steps - 1
        self._runs = False

    def before(self, step: int) -> None:
        """Is told that a step is about to be dispatched."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._folder))
            self._runs = True

    def after(self, step: int, results: Any) -> None:
        """Is told what a dispatched step gives; waits for it if it is the last that is recorded."""
        if self._runs and step == self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()

    def __enter__(self) -> StepTrace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends a recording whose steps ran out: what there is of it is kept."""
        self._stop()
