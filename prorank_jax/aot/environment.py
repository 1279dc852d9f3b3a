"""What the compilers for TPU and GPU must find in the environment with no device attached; imports no jax."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection
from pathlib import Path

# Read once, when jax is imported and libtpu loaded. The accelerator type only has to be a valid one.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# jax's plugin, and where NVIDIA's packages of the same CUDA put ptxas and libdevice.
CUDA_PLUGIN, CUDA_FOLDER = "jax_plugins.xla_cuda13", "cu13"


def prepare_environment(platforms: Collection[str]) -> None:
    """Sets the variables for this process.

    Args:
        platforms: of `chips.Chip`.

    Raises:
        ValueError: jax is imported already, or a compiler is not installed.
    """
    if "jax" in sys.modules:
        raise ValueError("jax was imported before the compiler was told of it; start a process of its own")
    if "cuda" in platforms:
        data = cuda_compiler()
        # With no GPU there is nothing to try kernels out on.
        flags = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={data}"
        before = os.environ.get("XLA_FLAGS", "")
        os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS=f"{before} {flags}".strip())
    if "tpu" in platforms:
        if importlib.util.find_spec("libtpu") is None:
            raise ValueError(
                "libtpu is not installed, and it holds the compiler for TPU: `pip install libtpu`, or "
                "`make aot`, which installs it beside the environment"
            )
        os.environ.update(TPU_ENVIRONMENT)


def cuda_compiler() -> Path:
    """The folder with NVIDIA's assembler, where jax's plugin for CUDA 13 is installed too.

    Raises:
        ValueError: one of the two is not installed.
    """
    if _is_installed(CUDA_PLUGIN):
        for folder in (root / CUDA_FOLDER for root in _nvidia_folders()):
            if (folder / "bin" / "ptxas").is_file():
                return folder
    raise ValueError(
        "no compiler for NVIDIA GPUs is installed (jax's CUDA plugin and ptxas): `make aot-gpu` installs "
        "both beside the environment; no GPU is needed"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _nvidia_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
