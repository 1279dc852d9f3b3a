"""What libtpu must find in the environment to compile with no TPU attached; imports no jax."""

from __future__ import annotations

import importlib.util
import os
import sys

# Read once, when jax is imported and libtpu loaded. The accelerator type only has to be a valid one.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare_environment() -> None:
    """Sets the variables for this process.

    Raises:
        ValueError: jax is imported already, or libtpu is not installed.
    """
    if "jax" in sys.modules:
        raise ValueError("jax was imported before the TPU environment was set; start a process of its own")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "libtpu is not installed, and it holds the compiler for TPU: `pip install libtpu`, or "
            "`make aot`, which installs it beside the environment"
        )
    os.environ.update(TPU_ENVIRONMENT)
