"""Prepares a process of its own, with libtpu, to compile for TPU with no TPU attached.

The variables are read once, when jax is imported and libtpu loaded. `make test-tpu` therefore starts pytest
with `--confcutdir`, so that tests/conftest.py does not import jax first.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from prorank_jax.aot.environment import TPU_ENVIRONMENT

MUST_RUN_VARIABLE = "PRORANK_TPU_TESTS_MUST_RUN"
HAS_OWN_PROCESS = "jax" not in sys.modules
if HAS_OWN_PROCESS:
    os.environ.update(TPU_ENVIRONMENT)


@pytest.fixture(autouse=True, scope="session")
def _compiler_for_tpu() -> None:
    """Skips, with a reason, where these tests cannot work; fails where they were promised to."""
    give_up = pytest.fail if os.environ.get(MUST_RUN_VARIABLE) else pytest.skip
    if importlib.util.find_spec("libtpu") is None:
        give_up("libtpu is not installed: `make test-tpu` installs it and runs these tests")
    if not HAS_OWN_PROCESS:
        give_up("jax was imported before the TPU environment was set: `make test-tpu` runs these alone")
