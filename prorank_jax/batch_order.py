"""Which examples form which batch: a pure function of the seed and the number of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BUCKET_MULTIPLE = 16
BUCKET_QUANTILES = (0.5, 0.9)
WORTHWHILE_RATIO = 0.85
# What a stream of random numbers is for; part of its key.
_RARE, _FREQUENT, _BATCHES, _ROWS = range(4)


def choose_buckets(lengths: np.ndarray, max_length: int) -> tuple[int, ...]:
    """One to three static lengths that suit the data: multiples of 16, at most `max_length`.

    They are the median, the 0.9 quantile and the maximum of the lengths, rounded up. One that is
    hardly shorter than the next is left out: each length is compiled once and costs time for that.
    The last one holds every prompt; it is `max_length` itself where rounding up would pass that.

    Raises:
        ValueError: no lengths, or one above `max_length`.
    """
    if not len(lengths):
        raise ValueError("data.buckets: no examples to choose lengths from; give data.buckets")
    longest = int(np.max(lengths))
    if longest > max_length:
        raise ValueError(
            f"data.max_length={max_length}: an example has {longest} tokens; render it with this limit"
        )
    quantiles = np.quantile(lengths, [*BUCKET_QUANTILES, 1.0], method="inverted_cdf")
    rounded = {int(-(-length // BUCKET_MULTIPLE)) * BUCKET_MULTIPLE for length in quantiles}
    kept: list[int] = []
    for length in sorted({min(length, max_length) for length in rounded}, reverse=True):
        if not kept or length <= WORTHWHILE_RATIO * kept[-1]:
            kept.append(length)
    return tuple(reversed(kept))


def permutation(count: int, *key: int) -> np.ndarray:
    """A shuffle of `range(count)`, int64, that depends on the key only.

    Made from raw random bits, whose stream numpy guarantees, unlike that of its `permutation`.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(bits, kind="stable")


@dataclass(frozen=True)
class EpochPlan:
    """The global batches of one epoch.

    Attributes:
        examples: int64 [batches, B] positions of examples.
        buckets: int64 [batches] the static length of each batch.
    """

    examples: np.ndarray
    buckets: np.ndarray


class BalancedOrder:
    """Balanced batches of one length bucket each, epoch after epoch.

    Half of every batch is relevant, half is not. In one epoch every example of the rarer label is seen
    once; if their number is no multiple of half a batch, fewer than half a batch of them are seen twice,
    to fill the last batch. The more frequent label is read from one endless stream that goes through all
    its examples before any comes again, and continues from epoch to epoch.

    A batch takes examples that fit its bucket. Those a bucket cannot pair into full batches move up to
    the next longer one, so that none is lost. Every array is a function of (seed, epoch).
    """

    def __init__(
        self, lengths: np.ndarray, labels: np.ndarray, buckets: Sequence[int], batch_size: int, seed: int
    ) -> None:
        """Checks that balanced batches can be made.

        Raises:
            ValueError: an odd batch size, a label with fewer examples than half a batch, buckets that
                do not ascend, or a prompt longer than the last one.
        """
        if batch_size < 2 or batch_size % 2:
            raise ValueError(
                f"train.batch_size={batch_size}: give an even number; half of a batch is relevant"
            )
        _check_buckets(lengths, buckets)
        self._half = batch_size // 2
        relevant, irrelevant = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        _check_counts(len(relevant), len(irrelevant), batch_size)
        self._rare, self._frequent = sorted((relevant, irrelevant), key=len)
        self._bucket_of = np.searchsorted(np.asarray(buckets), lengths)
        self._buckets = tuple(buckets)
        self._seed = seed

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every example of the rarer label is seen."""
        return -(-len(self._rare) // self._half)

    def epoch(self, number: int) -> EpochPlan:
        """The batches of epoch `number` (from 0)."""
        wanted = self.batches_per_epoch * self._half
        rare = self._rare[permutation(len(self._rare), self._seed, _RARE, number)]
        rare = np.concatenate([rare, rare[: wanted - len(rare)]])
        halves, buckets = self._pair_up(rare, self._read_frequent(number * wanted, wanted))
        order = permutation(len(buckets), self._seed, _BATCHES, number)
        rows = [
            permutation(2 * self._half, self._seed, _ROWS, number, position) for position in range(len(order))
        ]
        examples = np.take_along_axis(halves[order], np.stack(rows), axis=1)
        return EpochPlan(examples, buckets[order])

    def _read_frequent(self, start: int, count: int) -> np.ndarray:
        total = len(self._frequent)
        passes = range(start // total, (start + count - 1) // total + 1)
        stream = np.concatenate([permutation(total, self._seed, _FREQUENT, number) for number in passes])
        offset = start - passes.start * total
        return self._frequent[stream[offset : offset + count]]

    def _pair_up(self, rare: np.ndarray, frequent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Batches [batches, B] and their lengths [batches] from equally many examples of both labels."""
        batches, lengths = [], []
        waiting = [rare[:0], frequent[:0]]
        for number, length in enumerate(self._buckets):
            arriving = [label[self._bucket_of[label] == number] for label in (rare, frequent)]
            waiting = [np.concatenate(pair) for pair in zip(waiting, arriving, strict=True)]
            paired = min(map(len, waiting)) // self._half * self._half
            pairs = [label[:paired].reshape(-1, self._half) for label in waiting]
            batches.append(np.concatenate(pairs, axis=1))
            lengths += [length] * len(batches[-1])
            waiting = [label[paired:] for label in waiting]
        return np.concatenate(batches), np.array(lengths, np.int64)


def _check_buckets(lengths: np.ndarray, buckets: Sequence[int]) -> None:
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
        raise ValueError(f"data.buckets={tuple(buckets)}: list positive lengths in ascending order")
    longest = int(np.max(lengths, initial=0))
    if longest > buckets[-1]:
        raise ValueError(
            f"data.buckets={tuple(buckets)}: a prompt has {longest} tokens; the last bucket must hold it"
        )


def _check_counts(relevant: int, irrelevant: int, batch_size: int) -> None:
    rarer = "relevant" if relevant <= irrelevant else "irrelevant"
    if min(relevant, irrelevant) < batch_size // 2:
        remedy = "a lower data.relevant_grade" if rarer == "relevant" else "more data.negatives_per_query"
        raise ValueError(
            f"train.batch_size={batch_size}: half of a batch is {batch_size // 2} examples, but there are "
            f"{relevant} relevant and {irrelevant} irrelevant ones; give a smaller batch, or {remedy}"
        )
