"""Lets these tests run where jax has an NVIDIA GPU, and skip with a reason where it has none."""

from __future__ import annotations

import os

import pytest

from tests.device_place import keep_cpu, require_device

keep_cpu()
# Memory is measured, so it is not taken ahead.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@pytest.fixture(autouse=True, scope="session")
def _gpu() -> None:
    needs = "an NVIDIA GPU and `pip install .[cuda]`"
    require_device("gpu", needs, "test-cuda", "PRORANK_CUDA_TESTS_MUST_RUN")
