"""The most memory that jax took."""

from __future__ import annotations

import resource

import jax


def peak_bytes() -> int:
    """The most memory so far: of the device where it counts, else of this process."""
    of_device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return int(of_device or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
