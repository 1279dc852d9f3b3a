"""Training data in one place: `open_dataset` for the examples, then their batches through grain."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence

import grain
import numpy as np

from prorank_jax.batch_order import BalancedOrder, EpochPlan, choose_buckets
from prorank_jax.examples import Example, ExampleSet, build_examples, open_dataset
from prorank_jax.prompt_rows import RowMembers, RowPlan, plan_rows
from prorank_jax.types import Batch

__all__ = [
    "Example",
    "ExampleSet",
    "build_examples",
    "choose_buckets",
    "make_batch",
    "open_dataset",
    "train_iterator",
]

PADDING_TOKEN = 0
FILLER_EXAMPLE = -1
READ_AHEAD_THREADS = 2
READ_AHEAD_BATCHES = 8
ENDLESS = 2**40


def make_batch(example_set: ExampleSet, positions: np.ndarray, length: int, rows: int) -> Batch:
    """A batch [rows, length] of the examples at these positions, none of which is longer.

    Args:
        positions: [n] int, n ≤ rows; the other rows are fillers of one padding token.
    """
    tokens = np.full((rows, length), PADDING_TOKEN, np.int32)
    lengths = np.ones(rows, np.int32)
    labels = np.zeros(rows, np.int32)
    examples = np.full(rows, FILLER_EXAMPLE, np.int32)
    for row, position in enumerate(positions):
        example = example_set[position]
        lengths[row] = len(example.tokens)
        tokens[row, : lengths[row]] = example.tokens
        labels[row] = example.label
        examples[row] = position
    return Batch(tokens=tokens, lengths=lengths, labels=labels, examples=examples)


class _BatchSource:
    """grain's random access to batches: step → this process's rows of the global batch."""

    def __init__(
        self, example_set: ExampleSet, order: BalancedOrder, rows: np.ndarray, row_plan: RowPlan | None
    ) -> None:
        self._example_set = example_set
        self._order = order
        self._rows = rows
        self._row_plan = row_plan
        self._plans = functools.lru_cache(maxsize=2)(order.epoch)
        self._planning = threading.Lock()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(int(step), self._order.batches_per_epoch)
        plan = self._plan(epoch)
        all_of_batch, width = plan.examples[position], int(plan.buckets[position])
        positions = all_of_batch[self._rows]
        batch = make_batch(self._example_set, positions, width, len(positions))
        if self._row_plan is None:
            return batch
        rows = self._row_plan.rows_for(self._example_set.lengths[all_of_batch], width)
        return dataclasses.replace(batch, rows=rows)

    def _plan(self, epoch: int) -> EpochPlan:
        with self._planning:  # otherwise each reading thread would work the same plan out
            return self._plans(epoch)


def train_iterator(
    example_set: ExampleSet,
    *,
    batch_size: int,
    seed: int,
    buckets: Sequence[int],
    rows: np.ndarray | None = None,
    members: RowMembers | None = None,
    start_step: int = 0,
) -> grain.DatasetIterator[Batch]:
    """An endless iterator over this process's part of the training batches.

    The batch of a step is a function of (examples, batch_size, seed, buckets, step), see `BalancedOrder`.
    The state of `get_state()` is JSON-able and holds only the
    number of the next step, so that it may be set on any process of any process count.

    Args:
        batch_size: rows B of the global batch over all processes, even.
        buckets: static lengths T, ascending; see `choose_buckets`.
        rows: those of this process, see `process_rows.rows_of_process`; None: all.
        members: which prompts stand behind each other in a step; None: each is padded by itself.
        start_step: the step whose batch comes first.

    Raises:
        ValueError: a batch size that cannot be balanced, buckets that do not hold the prompts, too few
            examples of a label, or a step out of range.
    """
    if not 0 <= start_step < ENDLESS:
        raise ValueError(f"start_step={start_step}: must be at least 0")
    order = BalancedOrder(example_set.lengths, example_set.labels, buckets, batch_size, seed)
    mine = np.arange(batch_size) if rows is None else rows
    row_plan = None if members is None else plan_rows(order, example_set.lengths, members)
    source = _BatchSource(example_set, order, mine, row_plan)
    read_ahead = grain.ReadOptions(num_threads=READ_AHEAD_THREADS, prefetch_buffer_size=READ_AHEAD_BATCHES)
    batches = grain.MapDataset.source(source).to_iter_dataset(read_ahead)
    iterator = iter(batches)
    if start_step:
        iterator.set_state(iterator.get_state() | {"next_index": start_step})
    return iterator
