"""Published figures of TPU chips and GPUs, and the names of their topologies.

All are peaks per chip. Those of TPUs are as Google states them in the section "System architecture" of the
documentation pages named below (Cloud TPU documentation: "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e", "TPU7x
(Ironwood)"), those of a GPU from NVIDIA's data sheet, without sparsity. Interconnect bandwidth is stated in
both for both directions together. The page on v4 does not state it, so there is none here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from prorank_jax.aot.gpu_target import gpu_target_config

GIB = 2**30
_TOPOLOGY = re.compile(r"([a-z0-9]+):(\d+(?:x\d+){0,2})")
# GPUs of one host, which NVLink joins; between hosts there is a network that no data sheet states.
MOST_GPUS = 8


@dataclass(frozen=True)
class Chip:
    """Peaks of one chip.

    Attributes:
        bf16_flops: FLOPs per second with bfloat16 operands.
        hbm_bytes: capacity.
        hbm_bandwidth: bytes per second.
        ici_bandwidth: bytes per second over all links, both directions together; None: not published.
        devices: what jax shows of a chip; each has its share of everything above.
        source: where the figures are from.
        platform: of jax, for which a step is compiled.
        taken_share: of the capacity, what jax takes unless told otherwise.
    """

    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float | None
    source: str
    devices: int = 1
    platform: str = "tpu"
    taken_share: float = 1.0

    @property
    def device_bytes(self) -> int:
        """What a step may take of one device."""
        return int(self.hbm_bytes * self.taken_share) // self.devices

    @property
    def sending_bandwidth(self) -> float | None:
        """Bytes per second that a chip can send, while it receives as many."""
        return None if self.ici_bandwidth is None else self.ici_bandwidth / 2


_GOOGLE = "Google Cloud TPU documentation, "
CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 32 * GIB, 1200e9, None, f"{_GOOGLE}TPU v4"),
    # The page says 16 GB and 819 GB/s; the compiler keeps a quarter of a GiB for itself.
    "v5e": Chip(197e12, 16 * GIB, 819e9, 400e9, f"{_GOOGLE}TPU v5e"),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 1200e9, f"{_GOOGLE}TPU v5p"),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 800e9, f"{_GOOGLE}TPU v6e"),
    "tpu7x": Chip(2307e12, 192 * GIB, 7380e9, 1200e9, f"{_GOOGLE}TPU7x (Ironwood)", devices=2),
    "h100": Chip(
        989e12,
        80 * 10**9,
        3350e9,
        900e9,
        "NVIDIA H100 Tensor Core GPU data sheet (SXM)",
        platform="cuda",
        taken_share=0.75,
    ),
}
# What Cloud TPU calls a slice, and its topology; the number counts chips, on v5p cores, two to a chip.
# A GPU's name alone is one of it.
ACCELERATORS: dict[str, str] = {
    "v5e-8": "v5e:2x4",
    "v5e-16": "v5e:4x4",
    "v5e-256": "v5e:16x16",
    "v5p-8": "v5p:2x2x1",
    "v6e-8": "v6e:2x4",
    "h100": "h100:1",
}
# Two TensorCores that jax shows as one device, as on the machines Google rents out.
_EXTRA_DESCRIPTION = {"v4": {"chip_config_name": "megacore"}}


@dataclass(frozen=True)
class Topology:
    """A slice of TPU chips such as `v5e:2x4`, or GPUs of one host such as `h100:1`."""

    name: str
    chip_name: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.chip_name]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Devices that jax shows."""
        return self.chips * self.chip.devices

    @property
    def description(self) -> dict[str, object]:
        """Keyword arguments of `jax.experimental.topologies.get_topology_desc`."""
        if self.chip.platform == "cuda":
            return {
                "platform": "cuda",
                "topology_name": self.name,
                "topology": f"1x1x{self.chips}",
                "target_config": gpu_target_config(self.chip_name),
            }
        extra: dict[str, object] = dict(_EXTRA_DESCRIPTION.get(self.chip_name, {}))
        if self.chips == 1:
            extra["chips_per_host_bounds"] = (1, 1, 1)
        return {"platform": "tpu", "topology_name": self.name, **extra}


def parse_topology(name: str) -> Topology:
    """Reads `CHIP:AxB` or `CHIP:AxBxC` of TPUs, `CHIP:N` of GPUs, or one of `ACCELERATORS`.

    Raises:
        ValueError: another form, or a chip whose figures are not known here.
    """
    name = ACCELERATORS.get(name, name)
    found = _TOPOLOGY.fullmatch(name)
    if found is None:
        raise ValueError(f"--topology={name!r}: write chip and shape, e.g. v5e:2x4, v5p:2x2x1 or h100:1")
    chip_name, shape = found[1], tuple(int(size) for size in found[2].split("x"))
    if chip_name not in CHIPS:
        raise ValueError(f"--topology={name!r}: the chips known here are {', '.join(CHIPS)}")
    on_gpus = CHIPS[chip_name].platform == "cuda"
    if on_gpus != (len(shape) == 1):
        form = f"the number of GPUs, e.g. {chip_name}:1" if on_gpus else f"its shape, e.g. {chip_name}:2x2"
        raise ValueError(f"--topology={name!r}: write {form}")
    if 0 in shape:
        raise ValueError(f"--topology={name!r}: every size is at least 1")
    if on_gpus and shape[0] > MOST_GPUS:
        raise ValueError(f"--topology={name!r}: at most the {MOST_GPUS} GPUs of one host are compiled for")
    return Topology(name, chip_name, shape)


def accelerator_of(config_file: Path) -> str:
    """The accelerator that a config is for: what follows the last `_` of its name.

    Raises:
        ValueError: a name that ends in no known accelerator.
    """
    name = config_file.stem.rpartition("_")[2]
    if name not in ACCELERATORS:
        raise ValueError(f"{config_file}: its name must end in _ and one of {', '.join(ACCELERATORS)}")
    return name
