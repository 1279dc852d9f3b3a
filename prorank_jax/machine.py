"""What the environment says of the machine a launcher runs on: its peers, and whether it has a TPU.

Launchers ask before they import jax, so nothing here may import it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from prorank_jax.config_checks import require

COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
POD_WORKERS = "TPU_WORKER_HOSTNAMES"
PLATFORMS, CUDA_DEVICES = "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"
# A process that is silent for so long is dead, and so is the run. jax would wait for 100 seconds, and at the
# end of a process for five minutes.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 60, 60

_GOOGLE = "0x1ae0"
# Of Google's PCI devices, those every Compute Engine machine may have: a disk and a network card.
_NO_TPU = {"0x001f", "0x0042"}
# An index, or what nvidia-smi calls a GPU or a part of one; queues of jobs write words where there is none.
_VISIBLE_GPU = r"[0-9]+|(GPU|MIG)-.+"
_TPU_DEVICES = ("dev/accel*", "dev/vfio/[0-9]*")
_NVIDIA_DEVICES, _AMD_DEVICES = ("dev/nvidia*", "dev/dxg"), ("dev/kfd",)


def distributed_arguments(environment: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` for this process; None where it has no peers.

    There are peers when `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` are set, or when `TPU_WORKER_HOSTNAMES` lists more than one host: a TPU pod, whose
    workers jax finds by itself.

    Raises:
        ValueError: some of the three variables without the others, or a value that cannot be.
    """
    patience = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    given = [name for name in (COORDINATOR, PROCESSES, PROCESS) if environment.get(name)]
    if len(given) == 3:
        count = _whole_number(environment, PROCESSES)
        number = _whole_number(environment, PROCESS)
        require(count >= 1, PROCESSES, count, "at least 1 process")
        require(0 <= number < count, PROCESS, number, f"from 0 to {PROCESSES}-1={count - 1}")
        address = environment[COORDINATOR]
        require(address.rpartition(":")[2].isdecimal(), COORDINATOR, address, "write HOST:PORT of process 0")
        # Everything is said, so there is nothing to detect, and no metadata server to wait for.
        where = {"coordinator_address": address, "num_processes": count, "process_id": number}
        return where | {"cluster_detection_method": "deactivate"} | patience
    if len(environment.get(POD_WORKERS, "").split(",")) > 1:
        return patience
    if PROCESSES in given or PROCESS in given:
        missing = next(name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given)
        raise ValueError(f"{missing}: not set, but {given[0]}={environment[given[0]]!r} is; set all three")
    return None


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    require(text.strip().isdecimal(), name, text, "a whole number")
    return int(text)


def skip_absent_tpu(environment: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Keeps jax from starting an installed libtpu where there is neither a TPU nor a GPU.

    libtpu would look for a TPU for a second and write warnings about what it lacks. Nothing is changed
    where `JAX_PLATFORMS` or a variable of a TPU is set, or where a device may be one.
    """
    said = PLATFORMS in environment or any(name.startswith("TPU_") for name in environment)
    if not said and importlib.util.find_spec("libtpu") and not may_have_accelerator(root):
        environment[PLATFORMS] = "cpu"


def may_have_accelerator(root: Path = Path("/")) -> bool:
    """Whether a device of this machine is a TPU or a GPU, or may be one that is not known yet."""
    return _may_have_tpu(root) or _exists(root, (*_NVIDIA_DEVICES, *_AMD_DEVICES))


def may_use_accelerator(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """As `may_have_accelerator`, of a device that no variable hides from jax."""
    if _first_platform(environment) == "cpu":
        return False
    gpus = (*_NVIDIA_DEVICES, *_AMD_DEVICES) if may_use_nvidia(environment) else _AMD_DEVICES
    return may_use_tpu(environment, root) or _exists(root, gpus)


def may_use_nvidia(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether nothing keeps jax from an NVIDIA GPU: CUDA sees the devices before the first that is none."""
    first_visible = environment.get(CUDA_DEVICES, "0").split(",")[0].strip()
    return re.fullmatch(_VISIBLE_GPU, first_visible) is not None and _first_platform(environment) != "cpu"


def may_use_tpu(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """Whether jax would take a TPU: one may be here, libtpu is, and `JAX_PLATFORMS` names no other first."""
    has_library = environment.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu")
    return _first_platform(environment) in ("", "tpu") and bool(has_library) and _may_have_tpu(root)


def _first_platform(environment: Mapping[str, str]) -> str:
    """What `JAX_PLATFORMS` names first, where jax then computes; empty: jax chooses."""
    return environment.get(PLATFORMS, "").split(",")[0].strip()


def _may_have_tpu(root: Path) -> bool:
    if _exists(root, _TPU_DEVICES):
        return True
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        device = vendor.with_name("device")
        if _read(vendor) == _GOOGLE and _read(device) not in _NO_TPU:
            return True
    return False


def _exists(root: Path, patterns: Iterable[str]) -> bool:
    return any(next(root.glob(pattern), None) for pattern in patterns)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip().lower()
    except OSError:
        return ""


def usable_cores() -> int:
    """CPU cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
