"""The memory that jax took, and what is said where there is too little."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from prorank_jax.storage_faults import TooLittleMemoryError

OF_DEVICE, OF_PROCESS = "first device", "process on the host"
AT_MOST, AT_LEAST = f"{OF_DEVICE}, at most", f"{OF_DEVICE}, at least"
_NO_ROOM = "RESOURCE_EXHAUSTED"
_TOLD_CHARACTERS = 300


def peak_memory() -> tuple[int, str]:
    """The most bytes so far, and whose: the first device's where its backend counts, else this process's.

    A TPU counts the temporaries of programs apart, as reserved. The two peaks need not be of one moment, so
    that their sum is an upper bound; without the second the first is a lower one.
    """
    device = jax.local_devices()[0]
    counted = device.memory_stats() or {}
    in_use, reserved = counted.get("peak_bytes_in_use"), counted.get("peak_bytes_reserved")
    if in_use and device.platform == "tpu":
        return int(in_use) + int(reserved or 0), AT_LEAST if reserved is None else AT_MOST
    if in_use:
        return int(in_use), OF_DEVICE
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
