"""What the sides that run on torch say of their device."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from side import peak_bytes

if TYPE_CHECKING:
    from accelerate import Accelerator  # the side of mxbai-rerank has none


def set_up_torch(settings: dict[str, Any]) -> None:
    """Takes the threads of work.json, and float32's full precision, which some images for GPUs lower."""
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision("highest")


def torch_facts(device: torch.device) -> dict[str, Any]:
    """Torch's version, the device's name, how many threads torch uses, and float32's precision."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
    }


def computed_dtype(accelerator: Accelerator, model: torch.nn.Module) -> str:
    """The dtype of a trainer's matrix products: autocast's where it is on, else the parameters'."""
    autocast = {"bf16": "bfloat16", "fp16": "float16"}.get(accelerator.mixed_precision)
    return autocast or str(next(model.parameters()).dtype).removeprefix("torch.")


def tuning_options() -> dict[str, Any]:
    """How `tuning.fastest` is to run here."""
    return {"repeats": 3 if torch.cuda.is_available() else 1, "no_room": (torch.OutOfMemoryError,)}


def forget_peak() -> None:
    """Lets the peak of memory begin anew, after batch sizes were tried that are not used."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # Linux knows this alone
            Path("/proc/self/clear_refs").write_text("5")


def torch_peak_bytes() -> int:
    """The most memory so far: of the GPU if torch sees one, else of this process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes()
