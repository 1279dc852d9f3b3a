"""What this project's sides say of themselves before they load anything."""

from __future__ import annotations

from typing import Any

import jax


def our_facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Jax's version, the device's name, the dtype, which is the one asked for, and float32's precision."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "dtype": settings["dtype"],
        "precision": jax.config.jax_default_matmul_precision,
    }
