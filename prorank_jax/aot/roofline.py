"""What a step would take on a chip with published peaks: an estimate, neither a measurement nor a bound.

max(FLOPs / peak, HBM bytes / bandwidth, bytes sent / what the links send), as in Williams, Waterman and
Patterson, "Roofline" (2009), with the interconnect as a third roof. All links of a chip are taken to work in
both directions all the time, and everything to overlap; a slice without wraparound has fewer links. A step
takes longer for all that is used less well, and may take less where what was counted is not done: products
that a kernel leaves out for its mask, bytes that are found on the chip already (`jaxpr_flops`, `traffic`).
"""

from __future__ import annotations

from dataclasses import dataclass

from prorank_jax.aot.chips import Chip


@dataclass(frozen=True)
class Roofline:
    """Seconds that each resource is busy with what was counted, and what follows.

    Attributes:
        interconnect: None where the chip's figure is not published.
        mfu: model FLOPs in the longest of these times, as a share of the peak.
    """

    compute: float
    hbm: float
    interconnect: float | None
    seconds: float
    limited_by: str
    mfu: float
    tokens_per_second: float
    prompts_per_second: float


def roofline_of(
    chip: Chip,
    chips: int,
    *,
    model_flops: int,
    executed_flops: int,
    hbm_bytes: float,
    sent_bytes: float,
    tokens: int,
    prompts: int,
) -> Roofline:
    """The roofline of one step over all chips.

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
    return Roofline(
        compute=times["compute"],
        hbm=times["HBM"],
        interconnect=times["interconnect"] if sending else None,
        seconds=seconds,
        limited_by=limited_by,
        mfu=model_flops / chips / chip.bf16_flops / seconds,
        tokens_per_second=tokens / seconds,
        prompts_per_second=prompts / seconds,
    )
