"""Prepares a process of its own, with XLA's GPU plugin, to compile for a GPU with none attached.

The variables are read once, when jax is imported. `make test-cuda-compile` therefore starts pytest with
`--confcutdir`, so that tests/conftest.py does not import jax first.
"""

from __future__ import annotations

import os
import sys

import pytest

from prorank_jax.aot.environment import cuda_compiler, prepare_environment

MUST_RUN_VARIABLE = "PRORANK_CUDA_COMPILE_TESTS_MUST_RUN"
HAS_OWN_PROCESS = "jax" not in sys.modules


def _missing() -> str:
    if not HAS_OWN_PROCESS:
        return "jax was imported before the environment was set: `make test-cuda-compile` runs these alone"
    try:
        cuda_compiler()
    except ValueError as error:
        return str(error)
    return ""


MISSING = _missing()
if not MISSING:
    prepare_environment({"cuda"})


@pytest.fixture(autouse=True, scope="session")
def _compiler_for_gpus() -> None:
    """Skips, with a reason, where these tests cannot work; fails where they were promised to."""
    if MISSING:
        (pytest.fail if os.environ.get(MUST_RUN_VARIABLE) else pytest.skip)(MISSING)
