"""Prompts that start alike, put together as lists so that what they share is computed once.

All prompts of a query start with the same tokens. Lists are short: the longer one is, the further its
prompts are padded to its longest, and four of them already spare three quarters of what is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prorank_jax.batch_shapes import BatchShapes, batch_overhead, cheapest_cuts
from prorank_jax.flops import forward_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.types import ListBatch

LIST_SIZE = 4  # K


@dataclass(frozen=True, eq=False)
class PromptList:
    """Up to K prompts of one query.

    Attributes:
        places: of the prompts among all.
        shared: tokens that they all start with, at least one fewer than the shortest has.
        rest: tokens that the longest has beyond those.
    """

    places: np.ndarray
    shared: int
    rest: int


@dataclass(frozen=True, eq=False)
class ListPlan:
    """The lists of one batch, and its static shape: [Q, P] shared tokens, [Q, K, S] others."""

    lists: list[PromptList]
    rows: int
    prefix: int
    width: int

    def flops(self, config: ModelConfig) -> int:
        """FLOPs of the layers, padding included."""
        rest = LIST_SIZE * forward_flops(config, self.width, self.prefix + self.width)
        return self.rows * (forward_flops(config, self.prefix, self.prefix) + rest)


def shared_length(prompts: Sequence[np.ndarray]) -> int:
    """How many tokens all prompts start with, so that at least one is left of each."""
    width = min(map(len, prompts)) - 1
    heads = np.stack([prompt[:width] for prompt in prompts])
    differing = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differing[0]) if len(differing) else width


def make_lists(prompts: Sequence[np.ndarray], queries: Sequence[str]) -> list[PromptList]:
    """Lists of the prompts whose queries follow each other and are equal; similar lengths together."""
    lists = []
    for _, group in itertools.groupby(range(len(prompts)), key=lambda place: queries[place]):
        places = sorted(group, key=lambda place: -len(prompts[place]))
        shared = shared_length([prompts[place] for place in places])
        for start in range(0, len(places), LIST_SIZE):
            longest = len(prompts[places[start]])
            lists.append(PromptList(np.array(places[start : start + LIST_SIZE]), shared, longest - shared))
    return lists


def plan_lists(
    prompts: Sequence[np.ndarray],
    queries: Sequence[str],
    shapes: BatchShapes,
    ways: int,
    config: ModelConfig,
) -> list[ListPlan] | None:
    """Which lists share a batch, so that the work is the least there is; None where no list fits a batch.

    Lists that follow each other by the length of their prompts share one, as in `plan_batches`. The batch
    that takes the most memory comes first.

    Args:
        shapes: of batches of single prompts; one of lists has no more rows, and the same widths.
        ways: over how many devices the lists of a batch are split.
    """
    counts = [rows // LIST_SIZE for rows in shapes.rows if rows % (LIST_SIZE * ways) == 0]
    if not counts:
        return None
    lists = sorted(make_lists(prompts, queries), key=lambda one: (-one.rest, -one.shared))
    overhead = batch_overhead(config)

    def plan(first: int, rows: int) -> ListPlan:
        chosen = lists[first : first + rows]
        prefix = shapes.width_for(max(one.shared for one in chosen))
        return ListPlan(chosen, rows, prefix, shapes.width_for(chosen[0].rest))

    def batches_from(first: int) -> Iterator[tuple[int, float]]:
        for rows in counts:
            batch = plan(first, rows)
            if rows == counts[0] or shapes.has_room(rows * LIST_SIZE, batch.prefix + batch.width):
                yield first + len(batch.lists), batch.flops(config) + overhead

    def rows_of(span: slice) -> int:
        return next(rows for rows in counts if rows >= span.stop - span.start)

    plans = [plan(span.start, rows_of(span)) for span in cheapest_cuts(len(lists), batches_from)]
    return sorted(plans, key=lambda one: one.rows * (one.prefix + one.width) ** 2, reverse=True)


def pad_lists(plan: ListPlan, prompts: Sequence[np.ndarray]) -> ListBatch:
    """The batch of a plan; filler prompts have one token, and filler lists share none."""
    shape = (plan.rows, LIST_SIZE)
    batch = ListBatch(
        prefix=np.zeros((plan.rows, plan.prefix), np.int32),
        prefix_lengths=np.zeros(plan.rows, np.int32),
        tokens=np.zeros((*shape, plan.width), np.int32),
        lengths=np.ones(shape, np.int32),
        grades=np.zeros(shape, np.float32),
        teacher=np.full(shape, np.nan, np.float32),
        mask=np.zeros(shape, bool),
        in_batch=np.zeros(shape, bool),
        examples=np.full(shape, -1, np.int32),
    )
    for row, one in enumerate(plan.lists):
        batch.prefix[row, : one.shared] = prompts[one.places[0]][: one.shared]
        batch.prefix_lengths[row] = one.shared
        for column, place in enumerate(one.places):
            rest = prompts[place][one.shared :]
            batch.tokens[row, column, : len(rest)] = rest
            batch.lengths[row, column] = len(rest)
            batch.mask[row, column] = True
            batch.examples[row, column] = place
    return batch
