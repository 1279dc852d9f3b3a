"""What a probe asks: a fixed sample of held-out prompts, and what shows the order within their queries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prorank_jax.batch_order import permutation
from prorank_jax.data import make_batch
from prorank_jax.examples import ExampleSet
from prorank_jax.types import Batch

_RELEVANT_STREAM, _IRRELEVANT_STREAM, _COMPANION_STREAM = 101, 102, 103

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """The prompts of a probe.

    Attributes:
        batches: the sample, half relevant and half not.
        companions: further irrelevant prompts, which only the AUC within queries reads.
        queries: [n] the number of the query of each example of the data set; None: that AUC is not wanted.
    """

    batches: list[Batch]
    companions: list[Batch]
    queries: np.ndarray | None

    @property
    def prompts(self) -> int:
        """Of the sample."""
        return sum(int(np.sum(np.asarray(batch.examples) >= 0)) for batch in self.batches)


def choose_held_out(
    example_set: ExampleSet,
    *,
    count: int,
    batch_size: int,
    buckets: Sequence[int],
    within_queries: bool,
    seed: int = 0,
) -> HeldOut:
    """A fixed held-out sample, half relevant and half not, in batches of ascending length.

    A sample drawn from many queries seldom has both a relevant and an irrelevant document of one. For the
    AUC within queries, each query of which it has relevant ones only gets an irrelevant companion. The sample
    and its batches are the same with and without them, so what a probe says of it is, too.

    Args:
        count: examples of the sample; cut to twice the rarer label's number, with a warning.
        batch_size: rows B of each batch; the last one is filled up with rows whose `examples` is -1.
        buckets: static lengths; a batch takes the shortest that holds its longest prompt.
        within_queries: whether the AUC within queries is wanted.

    Raises:
        ValueError: a label has no example, or a prompt is longer than the last bucket.
    """
    sample = _sample(example_set, count, seed)
    batches = _batches(example_set, sample, batch_size, buckets)
    if not within_queries:
        return HeldOut(batches, [], None)
    companions = _batches(example_set, _companions(example_set, sample, seed), batch_size, buckets)
    return HeldOut(batches, companions, example_set.queries)


def _sample(example_set: ExampleSet, count: int, seed: int) -> np.ndarray:
    """Positions of the sample."""
    relevant = int(np.sum(example_set.labels == 1))
    half = min(count // 2, relevant, len(example_set) - relevant)
    if half < 1:
        raise ValueError(
            f"probe.examples={count}: {example_set.name} has {relevant} relevant and "
            f"{len(example_set) - relevant} irrelevant examples; a probe needs both"
        )
    if half < count // 2:
        _log.warning("probe.examples=%d: %s has enough for %d only", count, example_set.name, 2 * half)
    streams = ((1, _RELEVANT_STREAM), (0, _IRRELEVANT_STREAM))
    return np.concatenate([_shuffled(example_set, label, seed, stream)[:half] for label, stream in streams])


def _companions(example_set: ExampleSet, sample: np.ndarray, seed: int) -> np.ndarray:
    """One irrelevant example of each query of which the sample has relevant ones only, where there is one."""
    queries, labels = example_set.queries[sample], example_set.labels[sample]
    lacking = np.setdiff1d(queries[labels == 1], queries[labels == 0])
    irrelevant = _shuffled(example_set, 0, seed, _COMPANION_STREAM)
    fitting = irrelevant[np.isin(example_set.queries[irrelevant], lacking)]
    return fitting[np.unique(example_set.queries[fitting], return_index=True)[1]]


def _shuffled(example_set: ExampleSet, label: int, seed: int, stream: int) -> np.ndarray:
    positions = np.flatnonzero(example_set.labels == label)
    return positions[permutation(len(positions), seed, stream)]


def _batches(
    example_set: ExampleSet, positions: np.ndarray, batch_size: int, buckets: Sequence[int]
) -> list[Batch]:
    ascending = positions[np.argsort(example_set.lengths[positions], kind="stable")]
    chunks = [ascending[start : start + batch_size] for start in range(0, len(ascending), batch_size)]
    longest = [int(example_set.lengths[chunk].max()) for chunk in chunks]
    if max(longest, default=0) > max(buckets):
        raise ValueError(
            f"data.buckets={tuple(buckets)}: a held-out prompt has {longest[-1]} tokens; "
            "the last bucket must hold it"
        )
    fitting = [min(bucket for bucket in buckets if bucket >= length) for length in longest]
    return [
        make_batch(example_set, chunk, length, batch_size)
        for chunk, length in zip(chunks, fitting, strict=True)
    ]
