"""SIGTERM, the notice that a preempted machine gets: finish the step, save, leave.

With several processes all must stop after the same step, whichever was told. They vote: beside each
training step runs a tiny reduction of "was I told to stop?", whose result is read a step later, when it
is there anyway. So nobody waits, and every process reads the same answer at the same step, which a
notice passed on in the background (as jax's own preemption service does it) has to negotiate.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prorank_jax.processes import gather_texts
from prorank_jax.sharding import MESH_AXES, replicated


@contextmanager
def sigterm_noticed(received: list[int] | None = None) -> Iterator[list[int]]:
    """A list that SIGTERM makes non-empty, so that a preempted run can save its state and leave.

    Args:
        received: that list; None: a new one.
    """
    received = [] if received is None else received
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def anyone_was_told(received: list[int]) -> bool:
    """Whether SIGTERM came to this process or another; every process must call it, at the same place."""
    return any(gather_texts("told" if received else ""))


class StopVote:
    """Whether a run is to stop, asked once a step; the same answer on every process."""

    def __init__(self, requested: list[int], mesh: Mesh) -> None:
        """Takes the list of `sigterm_noticed`; `mesh` spans the devices of all processes."""
        self._requested = requested
        self._devices = mesh.size
        self._flags = NamedSharding(mesh, PartitionSpec(MESH_AXES))
        self._any = jax.jit(lambda flags: flags.max(), out_shardings=replicated(mesh))
        self._before: jax.Array | None = None

    def says_stop(self) -> bool:
        """Alone: whether SIGTERM came. With others: whether one of them had it a call earlier."""
        if jax.process_count() == 1:
            return bool(self._requested)
        mine = np.full(self._devices, bool(self._requested), np.int32)
        flags = jax.make_array_from_callback(mine.shape, self._flags, lambda index: mine[index])
        before, self._before = self._before, self._any(flags)
        return before is not None and bool(np.asarray(before))
