"""Lets these tests run where jax has a TPU, and skip with a reason where it has none."""

from __future__ import annotations

import pytest

from tests.device_place import keep_cpu, require_device

keep_cpu()


@pytest.fixture(autouse=True, scope="session")
def _tpu() -> None:
    needs = "a TPU and `pip install .[tpu]`"
    require_device("tpu", needs, "test-tpu-device", "PRORANK_TPU_DEVICE_TESTS_MUST_RUN")
