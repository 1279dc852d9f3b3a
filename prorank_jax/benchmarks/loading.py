"""How the sides will compute, by the machine and by what they say, checked before anything takes minutes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prorank_jax.benchmarks.rounds import Side
from prorank_jax.config_checks import require
from prorank_jax.machine import PLATFORMS, may_use_tpu

Facts = dict[str, Any]
# What jax and torch call products of float32 in float32. Less, say TF32, is jax's default on a GPU, and
# torch's in some images.
FULL_PRECISION = "highest"


def check_no_tpu(peer: str) -> None:
    """Raises a ValueError where our side would take a TPU, on which no peer computes; needs neither side."""
    remedy = (
        f"our side would compute on the TPU that seems to be here and {peer} on the CPU, and their times "
        f"would say nothing of each other; set {PLATFORMS}=cpu to compare both on the CPU, or cuda on a GPU"
    )
    require(not may_use_tpu(), PLATFORMS, os.environ.get(PLATFORMS, ""), remedy)


def load_side(side: Side, work: Path, dtype: str) -> Facts:
    """Lets a side load, and returns what it says of itself.

    Args:
        work: folder with `work.json` and the model.
        dtype: asked for; mxbai-rerank, say, makes float32 of bfloat16 on a CPU without a word.

    Raises:
        ValueError: it would compute in another dtype, or multiply float32 with less precision.
    """
    facts: Facts = side.ask("load", work=str(work)).get("facts", {})
    computed = facts.get("dtype", dtype)
    if computed != dtype:
        raise ValueError(
            f"dtype={dtype!r}: {side.name} computes in {computed} here, so the sides would not do the same "
            f"work; give --dtype {computed}"
        )
    precision = facts.get("precision")
    if dtype == "float32" and precision != FULL_PRECISION:
        raise ValueError(
            f"dtype={dtype!r}: {side.name} multiplies float32 with precision {precision!r} here, not "
            f"{FULL_PRECISION!r}, so the sides would not do the same work; give --dtype bfloat16"
        )
    return facts


def check_same_device(facts: Mapping[str, Facts]) -> None:
    """Raises a ValueError for sides, by name, on different devices."""
    devices = {side: told.get("device") for side, told in facts.items()}
    if len(set(devices.values())) > 1:
        told = ", ".join(f"{side} on {device}" for side, device in devices.items())
        raise ValueError(
            f"device: {told}: their times say nothing of each other; install jax for GPUs "
            "(make setup-cuda), or hide the GPU from both with CUDA_VISIBLE_DEVICES=-1"
        )
