"""The environment of a side's process: what makes two sides alike that no library's own settings do."""

from __future__ import annotations

from collections.abc import Mapping

from prorank_jax.benchmarks.loading import FULL_PRECISION
from prorank_jax.benchmarks.options import BenchmarkOptions


def side_environment(
    environment: Mapping[str, str], options: BenchmarkOptions, *, keeps_path: bool
) -> dict[str, str]:
    """The environment of a side: as many threads as the other, one GPU, no downloads, no memory taken ahead.

    In float32 products are made in float32 on any device: see `loading.FULL_PRECISION`.

    Args:
        keeps_path: whether `PYTHONPATH` stays; a peer's environment is complete by itself.
    """
    kept = {name: value for name, value in environment.items() if keeps_path or name != "PYTHONPATH"}
    full = {"JAX_DEFAULT_MATMUL_PRECISION": FULL_PRECISION, "NVIDIA_TF32_OVERRIDE": "0"}
    threads = str(options.threads)
    return {
        **kept,
        **(full if options.dtype == "float32" else {}),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "CUDA_VISIBLE_DEVICES": kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
    }
