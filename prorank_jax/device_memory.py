"""The memory that jax took, and what is said where there is too little."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from prorank_jax.storage_faults import TooLittleMemoryError

OF_DEVICE, OF_PROCESS = "first device", "process on the host"
_NO_ROOM = "RESOURCE_EXHAUSTED"
_TOLD_CHARACTERS = 300


def peak_memory() -> tuple[int, str]:
    """The most bytes so far, and whose: the first device's where its backend counts, else this process's."""
    of_device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if of_device:
        return int(of_device), OF_DEVICE
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (largest if sys.platform == "darwin" else largest * 1024), OF_PROCESS


def peak_bytes() -> int:
    """The bytes of `peak_memory`."""
    return peak_memory()[0]


@contextmanager
def naming_memory(remedies: str) -> Iterator[None]:
    """Turns XLA's complaint that an array or a program finds no room into one line with what helps.

    Args:
        remedies: what to change, as an order: `lower --batch_size (8)`.

    Raises:
        TooLittleMemoryError: such a complaint; all other errors go through.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _NO_ROOM not in str(error):
            raise
        told = str(error).splitlines()[0][:_TOLD_CHARACTERS].rstrip(".")
        raise TooLittleMemoryError(f"too little memory ({told}); {remedies}") from error
