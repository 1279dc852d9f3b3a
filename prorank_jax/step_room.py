"""Warns of a training step for which the memory of this machine may not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax

from prorank_jax.host_memory import free_memory

_log = logging.getLogger(__name__)
_GIB = 2**30


class StepRoom:
    """Compares what a step takes with what is free, once for each shape of batch, until it has warned.

    On a CPU only: there the system ends a process that finds no more memory, without a word of what would
    help. Accelerators refuse the program themselves, which `device_memory.naming_memory` tells.
    """

    def __init__(self, temporary_bytes: Callable[..., int], remedies: str) -> None:
        """Args:
        temporary_bytes: what a device's part of the step takes beside its arguments, which are given to it.
        remedies: what to change, as an order.
        """
        self._temporary_bytes = temporary_bytes
        self._remedies = remedies
        self._is_watching = jax.default_backend() == "cpu"
        self._seen: set[Any] = set()

    def look_at(self, *arguments: Any) -> None:
        """Of the step with these arguments, which is compiled for it, and then not again."""
        if not self._is_watching:
            return
        shapes = jax.tree.structure(arguments), *map(jax.typeof, jax.tree.leaves(arguments))
        if shapes in self._seen:
            return
        self._seen.add(shapes)
        taken = self._temporary_bytes(*arguments) * jax.local_device_count()
        free = free_memory()
        if free is not None and taken > free:
            self._is_watching = False
            _log.warning(
                "a step takes %.1f GiB beside what is held already, and %.1f GiB are free: the system may "
                "end this run with no more than the word Killed; free some memory, or %s",
                taken / _GIB,
                free / _GIB,
                self._remedies,
            )
