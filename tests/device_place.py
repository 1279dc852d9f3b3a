"""Whether tests that need an accelerator can run here: what tests/cuda and tests/tpu_device share.

tests/conftest.py keeps the other tests on the CPU; `make test-cuda` and `make test-tpu-device` therefore
start pytest with `--confcutdir`, so that it is not read.
"""

from __future__ import annotations

import os
import sys

import pytest

HAS_OWN_PROCESS = "jax" not in sys.modules


def keep_cpu() -> None:
    """Lets jax, when it is imported, have the CPU to compare with, whichever platform was asked for."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"


def require_device(backend: str, needs: str, target: str, must_run_variable: str) -> None:
    """Skips, with a reason, where a target's tests cannot work; fails where they were promised to."""
    give_up = pytest.fail if os.environ.get(must_run_variable) else pytest.skip
    if not HAS_OWN_PROCESS:
        give_up(f"jax was imported for the CPU before: `make {target}` runs these alone")
    import jax

    if jax.default_backend() != backend:
        give_up(f"jax runs on {jax.default_backend()}: these need {needs}")
