"""Prepares a process that compiles for TPU with no TPU attached. It needs libtpu, and a process of its own."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

# Read once, when jax is imported and libtpu loaded: run on the CPU, look for no TPU host, write no logs.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
HAS_OWN_PROCESS = "jax" not in sys.modules
if HAS_OWN_PROCESS:
    os.environ.update(TPU_ENVIRONMENT)


@pytest.fixture(autouse=True, scope="session")
def _compiler_for_tpu() -> None:
    """Skips, with a reason, where these tests cannot work."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: `make test-tpu` installs it and runs these tests")
    if not HAS_OWN_PROCESS:
        pytest.skip("jax was imported before the TPU environment was set: `make test-tpu` runs these alone")
