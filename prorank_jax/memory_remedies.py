"""What to change in a config where its step finds no room."""

from __future__ import annotations

from jax.sharding import Mesh

from prorank_jax.config import RunConfig
from prorank_jax.sharding import batch_ways


def smaller_step(config: RunConfig, mesh: Mesh) -> str:
    """The fields that make a step take less memory, with their values, as an order.

    Those that change the result by rounding only come first: a run goes on with them.
    """
    same, other = [], [f"data.max_length ({config.data.max_length})"]
    if _can_be_accumulated_more(config, mesh):
        same.append(f"raise train.accumulation ({config.train.accumulation})")
    if config.model.remat != "full":
        same.append(f"set model.remat to full ({config.model.remat})")
    if config.stage == 2:
        other.append(f"ranking.list_size ({config.ranking.list_size})")
    if not config.lora.rank:
        other.append("what is trained, with lora.rank 16")
    first = (
        f"{' or '.join(same)} in the same command, which costs time only: the run goes on from its last "
        "checkpoint; or "
        if same
        else ""
    )
    return (
        f"{first}in a new output_dir lower {' or '.join(other)}. configs/ has settings for a CPU, GPUs and "
        "TPUs"
    )


def _can_be_accumulated_more(config: RunConfig, mesh: Mesh) -> bool:
    """Whether the batch can be cut into more parts that `check_batch_size` passes."""
    least, now = batch_ways(mesh), config.train.batch_size // config.train.accumulation
    return any(config.train.batch_size % part == 0 for part in range(least, now, least))
