"""Lets these tests run where jax has a TPU, and skip with a reason where it has none.

tests/conftest.py keeps the other tests on the CPU; `make test-tpu-device` therefore starts pytest with
`--confcutdir`, so that it is not read.
"""

from __future__ import annotations

import os
import sys

import pytest

MUST_RUN_VARIABLE = "PRORANK_TPU_DEVICE_TESTS_MUST_RUN"
HAS_OWN_PROCESS = "jax" not in sys.modules
# The CPU is what a TPU is compared with, whichever platform was asked for.
_PLATFORMS = os.environ.get("JAX_PLATFORMS", "")
if _PLATFORMS and "cpu" not in _PLATFORMS.split(","):
    os.environ["JAX_PLATFORMS"] = f"{_PLATFORMS},cpu"


@pytest.fixture(autouse=True, scope="session")
def _tpu() -> None:
    """Skips, with a reason, where these tests cannot work; fails where they were promised to."""
    give_up = pytest.fail if os.environ.get(MUST_RUN_VARIABLE) else pytest.skip
    if not HAS_OWN_PROCESS:
        give_up("jax was imported for the CPU before: `make test-tpu-device` runs these alone")
    import jax

    if jax.default_backend() != "tpu":
        give_up(f"jax runs on {jax.default_backend()}: these need a TPU and `pip install .[tpu]`")
