"""The most memory that jax took."""

from __future__ import annotations

import resource

import jax

OF_DEVICE, OF_PROCESS = "first device", "process on the host"


def peak_memory() -> tuple[int, str]:
    """The most bytes so far, and whose: the first device's where its backend counts, else this process's."""
    of_device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if of_device:
        return int(of_device), OF_DEVICE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, OF_PROCESS


def peak_bytes() -> int:
    """The bytes of `peak_memory`."""
    return peak_memory()[0]
