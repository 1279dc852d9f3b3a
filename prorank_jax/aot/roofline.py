"""The least time a step can take on a chip with published peaks: a bound, never a measurement.

max(FLOPs / peak, HBM bytes / bandwidth, bytes sent / what the links send), as in Williams, Waterman and
Patterson, "Roofline" (2009), with the interconnect as a third roof. All links of a chip are taken to work in
both directions all the time, and everything to overlap; a slice without wraparound has fewer links.
"""

from __future__ import annotations

from dataclasses import dataclass

from prorank_jax.aot.chips import Chip


@dataclass(frozen=True)
class Bound:
    """Seconds that each resource is busy at least, and what follows.

    Attributes:
        interconnect: None where the chip's figure is not published.
        mfu: model FLOPs at the bound, as a share of the peak.
    """

    compute: float
    hbm: float
    interconnect: float | None
    seconds: float
    limited_by: str
    mfu: float
    tokens_per_second: float
    prompts_per_second: float


def roofline_bound(
    chip: Chip,
    chips: int,
    *,
    model_flops: int,
    executed_flops: int,
    hbm_bytes: float,
    sent_bytes: float,
    tokens: int,
    prompts: int,
) -> Bound:
    """The bound of one step over all chips.

    Args:
        model_flops: over all chips, without recomputation; `executed_flops` with it.
        hbm_bytes: of one chip, as `sent_bytes`.
        tokens: of one step over all chips, padding included; `prompts` likewise.
    """
    sending = chip.sending_bandwidth
    times = {
        "compute": executed_flops / chips / chip.bf16_flops,
        "HBM": hbm_bytes / chip.hbm_bandwidth,
        "interconnect": sent_bytes / sending if sending else 0.0,
    }
    limited_by = max(times, key=lambda name: times[name])
    seconds = times[limited_by]
    return Bound(
        compute=times["compute"],
        hbm=times["HBM"],
        interconnect=times["interconnect"] if sending else None,
        seconds=seconds,
        limited_by=limited_by,
        mfu=model_flops / chips / chip.bf16_flops / seconds,
        tokens_per_second=tokens / seconds,
        prompts_per_second=prompts / seconds,
    )
