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
# jax's plugin of each CUDA, and where NVIDIA's packages of it put ptxas and libdevice.
CUDA_PLUGINS = {13: ("jax_plugins.xla_cuda13", "cu13"), 12: ("jax_plugins.xla_cuda12", "cuda_nvcc")}


def prepare_environment(platforms: Collection[str] = ("tpu",)) -> None:
    """Sets the variables for this process.

    Args:
        platforms: of `chips.Chip`.

    Raises:
        ValueError: jax is imported already, or a compiler is not installed.
    """
    if "jax" in sys.modules:
        raise ValueError("jax was imported before the TPU environment was set; start a process of its own")
    if "cuda" in platforms:
        _, data = cuda_compiler()
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


def cuda_compiler() -> tuple[int, Path]:
    """The CUDA version of the installed plugin of jax, and the folder with NVIDIA's assembler.

    Raises:
        ValueError: one of the two is not installed.
    """
    for major, (plugin, folder) in CUDA_PLUGINS.items():
        if _is_installed(plugin):
            data = next((root / folder for root in _nvidia_folders() if _has_ptxas(root / folder)), None)
            if data is not None:
                return major, data
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


def _has_ptxas(folder: Path) -> bool:
    return (folder / "bin" / "ptxas").is_file()
