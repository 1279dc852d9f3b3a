"""Batches of graded lists through grain: the training data of stage 2."""

from __future__ import annotations

import functools
import threading

import grain
import numpy as np

from prorank_jax.config import RankingOptions
from prorank_jax.data import ENDLESS, PADDING_TOKEN, READ_AHEAD_BATCHES, READ_AHEAD_THREADS
from prorank_jax.examples import ExampleSet, common_start
from prorank_jax.list_order import GRADES, TEACHER, ListIndex, ListOrder
from prorank_jax.ranking_losses import LOSSES, parse_losses, reads_teacher
from prorank_jax.records import Example
from prorank_jax.types import ListBatch

# Packed rows come in so many lengths at most, each of which is compiled for each width of documents.
PACKED_LENGTHS = 8


def index_lists(example_set: ExampleSet, options: RankingOptions, max_length: int) -> ListIndex:
    """The lists that can be made of a data set, with room for an answer where the options call for one.

    Args:
        max_length: longest prompt in tokens (`data.max_length`).

    Raises:
        ValueError: no query has documents that differ in what the losses learn from.
    """
    return ListIndex(
        example_set.name,
        example_set.lengths + _answer_room(options),
        example_set.starts,
        example_set.queries,
        example_set.grades,
        example_set.scores,
        example_set.documents,
        max_length + _answer_room(options),
        borrowing=options.in_batch_negatives > 0,
        learns_from=_signals(options),
    )


def _answer_room(options: RankingOptions) -> int:
    return int(options.format_coefficient > 0)


def _signals(options: RankingOptions) -> list[str]:
    # A loss of weight 0 is reported, not learned from.
    weights = {name: weight for name, weight in parse_losses(options.losses).items() if weight > 0}
    from_grades = not all(LOSSES[name].uses_teacher for name in weights)
    return [GRADES] * from_grades + [TEACHER] * reads_teacher(weights, options.soft_labels)


class _ListSource:
    """grain's random access to batches of lists: step → this process's lists of the global batch."""

    def __init__(
        self,
        example_set: ExampleSet,
        index: ListIndex,
        order: ListOrder,
        options: RankingOptions,
        rows: np.ndarray,
    ) -> None:
        self._example_set, self._index, self._order = example_set, index, order
        self._list_size, self._rows = options.list_size, rows
        self._room, self._packs = _answer_room(options), options.packing
        self._max_length = index.max_length - self._room
        self._plans = functools.lru_cache(maxsize=2)(order.epoch)
        self._planning = threading.Lock()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> ListBatch:
        epoch, position = divmod(int(step), self._order.batches_per_epoch)
        with self._planning:  # otherwise each reading thread would work the same plan out
            queries = self._plans(epoch)[position]
        # All lists decide the static length, which every process must agree on.
        members = self._order.members(queries, epoch)
        lengths = self._rest_lengths(members)
        width = self._order.bucket(lengths)
        row_tokens = packed_tokens(np.maximum(lengths, 1 + self._room), width) if self._packs else None
        return self._assemble(members[self._rows], width, row_tokens)

    def _rest_lengths(self, members: np.ndarray) -> np.ndarray:
        """Of each prompt, and the answer it may get; 0 where there is no prompt: [Q, K + borrowed]."""
        return np.where(members >= 0, self._index.lengths_beside_first(members), 0)

    def _assemble(self, members: np.ndarray, length: int, row_tokens: int | None) -> ListBatch:
        queries, width = members.shape
        batch = ListBatch(
            prefix=np.full((queries, self._index.prefix_width), PADDING_TOKEN, np.int32),
            prefix_lengths=np.ones(queries, np.int32),
            tokens=np.full((queries, width, length), PADDING_TOKEN, np.int32),
            lengths=np.ones((queries, width), np.int32),
            grades=np.zeros((queries, width), np.float32),
            teacher=np.full((queries, width), np.nan, np.float32),
            mask=(members >= 0) & (np.arange(width) < self._list_size),
            in_batch=(members >= 0) & (np.arange(width) >= self._list_size),
            examples=members.astype(np.int32),
            row_tokens=row_tokens,
        )
        for row in range(queries):
            self._fill(batch, row, members[row])
        return batch

    def _fill(self, batch: ListBatch, row: int, members: np.ndarray) -> None:
        places = np.flatnonzero(members >= 0)
        examples = [self._example_set[int(members[place])] for place in places]
        own = examples[0]  # a list has at least two documents of its own, which come first
        shared = min(own.document_start, self._index.prefix_width)
        batch.prefix[row, :shared] = own.tokens[:shared]
        batch.prefix_lengths[row] = shared
        for place, example in zip(places, examples, strict=True):
            rest = _prompt(own, example, self._max_length)[shared:]
            batch.tokens[row, place, : len(rest)] = rest
            batch.lengths[row, place] = len(rest)
            if batch.mask[row, place]:
                batch.grades[row, place] = example.grade
                batch.teacher[row, place] = example.score


def packed_tokens(lengths: np.ndarray, width: int) -> int | None:
    """The static length of rows in which the documents of a list stand behind each other.

    Args:
        lengths: [Q, K] tokens of all documents of a batch.
        width: S that each would be padded to.

    Returns:
        None where hardly less than K·S.
    """
    padded = lengths.shape[1] * width
    share = -(-padded // PACKED_LENGTHS)
    tokens = -(-int(lengths.sum(axis=1).max()) // share) * share
    return tokens if tokens < padded else None


def _prompt(own: Example, other: Example, max_length: int) -> np.ndarray:
    """The prompt of `own`'s query and `other`'s document, which is cut where both are too long together."""
    if own.query_id == other.query_id:
        return other.tokens
    tokens = np.concatenate([own.tokens[: own.document_start], other.tokens[other.document_start :]])
    excess = len(tokens) - max_length
    if excess <= 0:
        return tokens
    # Both end with the prompt's fixed text, and perhaps with words that the documents share.
    ending = min(common_start([own.tokens[::-1], other.tokens[::-1]]), max_length - own.document_start)
    cut = len(tokens) - ending
    return np.concatenate([tokens[: cut - excess], tokens[cut:]])


def list_iterator(
    example_set: ExampleSet,
    index: ListIndex,
    options: RankingOptions,
    *,
    lists_per_batch: int,
    relevant_grade: int,
    seed: int,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator[ListBatch]:
    """An endless iterator over this process's lists of the training batches.

    The batch of a step is a function of (examples, options, seed, step). The state of `get_state()` is
    JSON-able and holds only the number of the next step, so that it may be set on any process.

    Args:
        index: of these examples; see `index_lists`.
        lists_per_batch: lists Q of the global batch over all processes.
        relevant_grade: half of a list has this grade or a higher one.
        rows: the lists of this process, see `process_rows.rows_of_process`; None: all.
    """
    order = ListOrder(
        index,
        list_size=options.list_size,
        lists_per_batch=lists_per_batch,
        borrowed=options.in_batch_negatives,
        relevant_grade=relevant_grade,
        seed=seed,
    )
    mine = np.arange(lists_per_batch) if rows is None else rows
    source = _ListSource(example_set, index, order, options, mine)
    read_ahead = grain.ReadOptions(num_threads=READ_AHEAD_THREADS, prefetch_buffer_size=READ_AHEAD_BATCHES)
    return iter(grain.MapDataset.source(source).to_iter_dataset(read_ahead))
