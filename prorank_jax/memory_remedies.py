"""What to change in a config where its step finds no room."""

from __future__ import annotations

from prorank_jax.config import RunConfig


def smaller_step(config: RunConfig) -> str:
    """The fields that make a step take less memory, with their values, as an order.

    Those that change the result by rounding only come first: a run goes on with them.
    """
    same, other = [], [f"data.max_length ({config.data.max_length})"]
    if config.train.accumulation < config.train.batch_size:
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
