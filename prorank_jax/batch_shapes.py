"""Batches of a few static shapes, each of which is compiled once."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prorank_jax.flops import forward_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.types import Batch

# A batch has all its rows up to this width; beyond it fewer, as attention's memory grows with the square.
FULL_BATCH_WIDTH = 512
WIDTH_STEP = 32
# What a batch costs beside its tokens, in tokens: weights are read once more, products are smaller. It keeps
# a plan from a batch for each width, of which every one is another program to compile.
_BATCH_OVERHEAD = 512


@dataclass(frozen=True)
class BatchShapes:
    """The static shapes [B, T] that prompts are padded to.

    Attributes:
        rows: ascending B; each a multiple of the devices that share the rows of a batch.
        widths: ascending T; the last is the longest prompt.
    """

    rows: tuple[int, ...]
    widths: tuple[int, ...]

    def width_for(self, length: int) -> int:
        """The least width that holds a prompt of `length` tokens."""
        return self.widths[bisect_left(self.widths, length)]

    def rows_for(self, prompts: int) -> int:
        """The least B that holds so many prompts."""
        return self.rows[bisect_left(self.rows, prompts)]

    def has_room(self, rows: int, width: int) -> bool:
        """Whether B·T² stays within that of a full batch of FULL_BATCH_WIDTH."""
        return rows * width**2 <= self.rows[-1] * FULL_BATCH_WIDTH**2

    def most_rows(self, width: int) -> int:
        """B of a full batch of this width; the fewest where none has room."""
        fitting = [rows for rows in self.rows if self.has_room(rows, width)]
        return fitting[-1] if fitting else self.rows[0]


def make_batch_shapes(max_length: int, batch_size: int, ways: int) -> BatchShapes:
    """Widths as in `width_ladder`; rows in powers of two.

    Args:
        max_length: of a prompt, in tokens.
        batch_size: B of a full batch; rounded up to a multiple of `ways`.
        ways: over how many devices the rows of a batch are split; they are multiples of it.
    """
    most = -(-batch_size // ways) * ways
    powers = range((most // ways).bit_length())
    rows = sorted({*(ways * 2**power for power in powers), most})
    return BatchShapes(rows=tuple(rows), widths=width_ladder(max_length))


def next_width(length: int) -> int:
    """The next multiple of 32 up to 256, and of steps twice as long in each octave beyond it."""
    step = WIDTH_STEP << max(0, (length - 1).bit_length() - 8)
    return -(-length // step) * step


def width_ladder(most: int) -> tuple[int, ...]:
    """Ascending lengths as `next_width` has them, below `most`, and `most`."""
    widths, width = [], WIDTH_STEP
    while width < most:
        widths.append(width)
        width = next_width(width + 1)
    return (*widths, most)


def plan_batches(lengths: Sequence[int], shapes: BatchShapes, config: ModelConfig) -> list[np.ndarray]:
    """Which prompts share a batch: their places, the longest first, so that the work is the least there is.

    Prompts that follow each other by length share a batch; where to cut is found by dynamic programming over
    them. Twenty prompts, say, run as sixteen and four rather than as thirty-two with twelve of filler.
    The batch that takes the most memory comes first: what does not fit fails at once.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    widths = [shapes.width_for(lengths[place]) for place in order]
    overhead = batch_overhead(config)

    def batches_from(first: int) -> Iterable[tuple[int, float]]:
        of_row = forward_flops(config, widths[first], widths[first])
        for rows in shapes.rows[: shapes.rows.index(shapes.most_rows(widths[first])) + 1]:
            yield min(first + rows, len(order)), rows * of_row + overhead

    def memory(span: slice) -> int:
        return shapes.rows_for(span.stop - span.start) * widths[span.start] ** 2

    spans = cheapest_cuts(len(order), batches_from)
    return [order[span] for span in sorted(spans, key=memory, reverse=True)]


def batch_overhead(config: ModelConfig) -> int:
    """What a batch costs beside its tokens, in FLOPs."""
    return forward_flops(config, _BATCH_OVERHEAD, 0)


def cheapest_cuts(count: int, batches_from: Callable[[int], Iterable[tuple[int, float]]]) -> list[slice]:
    """How to cut `count` things in a row into batches that cost the least together.

    Args:
        batches_from: of the batches that begin at a place: where each ends, and what it costs.
    """
    least = [0.0] + [math.inf] * count  # cost of the first so many things
    starts = [0] * len(least)  # of the last batch among them
    for first in range(count):
        for end, cost in batches_from(first):
            if least[first] + cost < least[end]:
                least[end], starts[end] = least[first] + cost, first
    cuts = [count]
    while cuts[-1]:
        cuts.append(starts[cuts[-1]])
    return [slice(first, end) for end, first in itertools.pairwise(cuts)]


def plan_flops(
    batches: Sequence[np.ndarray], prompts: Sequence[np.ndarray], shapes: BatchShapes, config: ModelConfig
) -> int:
    """FLOPs of the layers for batches of `plan_batches`, padding included."""
    widths = [shapes.width_for(len(prompts[places[0]])) for places in batches]
    rows = [shapes.rows_for(len(places)) for places in batches]
    return sum(b * forward_flops(config, width, width) for b, width in zip(rows, widths, strict=True))


def pad_batch(
    prompts: Sequence[np.ndarray], places: Sequence[int] | np.ndarray, shapes: BatchShapes
) -> Batch:
    """The prompts (int32 token ids) at some places as one batch, with filler rows of one token.

    `examples` has their places, -1 in a filler row.
    """
    rows = shapes.rows_for(len(places))
    longest = max(len(prompts[place]) for place in places)
    tokens = np.zeros((rows, shapes.width_for(longest)), np.int32)
    lengths = np.ones(rows, np.int32)
    examples = np.full(rows, -1, np.int32)
    for row, place in enumerate(places):
        tokens[row, : len(prompts[place])] = prompts[place]
        lengths[row] = len(prompts[place])
        examples[row] = place
    return Batch(tokens=tokens, lengths=lengths, labels=np.zeros(rows, np.int32), examples=examples)
