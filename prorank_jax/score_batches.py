"""The batches that a window of prompts is scored in: packed where that is less work, else padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from prorank_jax.batch_shapes import BatchShapes, pad_batch, plan_batches, plan_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.packing import pad_packed, plan_packed
from prorank_jax.types import Batch, PackedBatch


def padded_batches(
    prompts: Sequence[np.ndarray], shapes: BatchShapes, config: ModelConfig
) -> Iterator[Batch]:
    """Batches of prompts by themselves; `examples` has their places."""
    for places in plan_batches([len(prompt) for prompt in prompts], shapes, config):
        yield pad_batch(prompts, places, shapes)


def packed_or_padded_batches(
    prompts: Sequence[np.ndarray],
    queries: Sequence[str],
    shapes: BatchShapes,
    ways: int,
    config: ModelConfig,
    row_tokens: int,
    *,
    fine: bool,
) -> Iterator[Batch | PackedBatch]:
    """Packed batches of the prompts that fit into a row, the others padded before them; or all padded.

    Whichever is less work for those that fit.

    Args:
        row_tokens: of a packed row at most.
        shapes, ways, fine: as in `plan_packed`.
    """
    fits = np.array([len(prompt) <= row_tokens for prompt in prompts], bool)
    short, long = ([prompts[place] for place in np.flatnonzero(of).tolist()] for of in (fits, ~fits))
    asked = [queries[place] for place in np.flatnonzero(fits).tolist()]
    packed = plan_packed(short, asked, shapes, ways, config, row_tokens, fine=fine)
    padded = plan_batches([len(prompt) for prompt in short], shapes, config)
    work = sum(plan.flops(config) for plan in packed)
    if not packed or work >= plan_flops(padded, short, shapes, config):
        yield from padded_batches(prompts, shapes, config)
        return
    for batch in padded_batches(long, shapes, config):
        yield _of_places(batch, np.flatnonzero(~fits))
    for plan in packed:
        yield _of_places(pad_packed(plan, short), np.flatnonzero(fits))


def _of_places(batch: Batch | PackedBatch, places: np.ndarray) -> Batch | PackedBatch:
    """The batch of chosen prompts with their places among all of them."""
    among_all = np.append(places, -1).astype(np.int32)  # the last one is what −1 reads
    return dataclasses.replace(batch, examples=among_all[batch.examples])
