"""Scores pairs in batches of a few static shapes, while the host renders the next ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from prorank_jax.batch_shapes import FULL_BATCH_WIDTH, make_batch_shapes, pad_batch
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES
from prorank_jax.config_checks import require, require_choice
from prorank_jax.input_checks import Pair
from prorank_jax.look_ahead import results_ahead
from prorank_jax.models.attention import check_implementation
from prorank_jax.models.transformer import Transformer
from prorank_jax.process_rows import put_whole_batch
from prorank_jax.prompts import AnswerTokens
from prorank_jax.score_batches import packed_or_padded_batches, padded_batches
from prorank_jax.steps import make_packed_score_step, make_score_step
from prorank_jax.types import Batch, PackedBatch, Params

# As `rendering` makes them.
RenderWindow = Callable[[Sequence[Pair]], Sequence[Sequence[int] | np.ndarray]]
# Pairs that are rendered and then batched by length together; the next so many are rendered meanwhile.
WINDOW = 1024
# Of all threads together: one that runs, and one that is there when it ends.
BATCHES_IN_FLIGHT = 2
# Of a packed row on a CPU, whose caches longer ones outgrow: 1.15 ms a token at 2,048 and at 3,072 of them,
# 1.29 at 8,192 (eight layers of Qwen2.5-0.5B's shape, two cores of an AMD EPYC).
CPU_ROW_TOKENS = 3072


@dataclass(frozen=True)
class _Window:
    """Pairs that are rendered and batched together, and where their scores go."""

    queries: Sequence[str]
    prompts: Sequence[np.ndarray]
    scores: np.ndarray
    start: int

    @property
    def is_last(self) -> bool:
        """Whether all other windows of its chunk came before it."""
        return self.start + len(self.prompts) == len(self.scores)


@dataclass(frozen=True)
class _Started:
    """A batch on the device, where its scores go, and whether no other batch of its chunk comes after it."""

    result: jax.Array
    scores: np.ndarray
    places: np.ndarray
    ends_chunk: bool


def check_scoring(batch_size: int, compute_dtype: str, attention: str, mesh: Mesh) -> None:
    """Refuses what no model can score with.

    Raises:
        ValueError: names the option.
    """
    is_count = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    require(is_count, "batch_size", batch_size, "must be a whole number above 0")
    require_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    require_choice("attention", attention, ATTENTION_IMPLEMENTATIONS)
    check_implementation(attention, compute_dtype, mesh)


class PairScorer:
    """A model on a mesh that scores pairs; the renderer comes with each call, so prompts may differ.

    Several threads may call it; their batches take turns. Every process of a run over several hosts calls it
    with the same pairs and gets all scores; there only one thread may, for jax wants the same order in each.
    """

    def __init__(
        self,
        model: Transformer,
        params: Params,
        answers: AnswerTokens,
        mesh: Mesh,
        *,
        max_length: int,
        batch_size: int,
        share_prefixes: bool = False,
    ) -> None:
        """Takes parameters that are on the mesh; nothing is compiled yet.

        Args:
            max_length: of a prompt in tokens.
            batch_size: prompts of a full batch.
            share_prefixes: compute what the prompts of a query share once, where its pairs follow each
                other, and pack prompts into rows, where that is less work. It pays for many pairs: more
                shapes are compiled.
        """
        self._ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self.shapes = make_batch_shapes(max_length, batch_size, self._ways)
        room = self.shapes.rows[-1] // self._ways * FULL_BATCH_WIDTH
        self._on_cpu = mesh.devices.flat[0].platform == "cpu"
        self._row_tokens = min(room, CPU_ROW_TOKENS) if self._on_cpu else room
        self.compiled_shapes: set[tuple[int, ...]] = set()
        self._starting = threading.Lock()
        self._in_flight: deque[jax.Array] = deque()
        self._params = params
        self._mesh = mesh
        self._config = model.config
        self._step = make_score_step(model, answers, mesh)
        self._packed_step = make_packed_score_step(model, answers, mesh) if share_prefixes else None

    def score(
        self, render: RenderWindow, pairs: Sequence[Pair], on_scored: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Scores [n] float32 in the order of the pairs.

        Args:
            render: gives each pair's prompt, at most `max_length` tokens; is called on another thread, with
                at most `WINDOW` pairs.
            pairs: (query, document).
            on_scored: is told how many more pairs have their scores.
        """
        return next(self.score_chunks(render, [pairs], on_scored))

    def score_chunks(
        self,
        render: RenderWindow,
        chunks: Iterable[Sequence[Pair]],
        on_scored: Callable[[int], None] | None = None,
    ) -> Generator[np.ndarray]:
        """What `score` gives for each chunk of pairs, in their order.

        While the scores of a chunk are computed, prompts of the next one are rendered, and its first batch is
        on the device before they are given: nobody waits for the other where a chunk ends.
        """
        running: deque[_Started] = deque()

        def collect() -> Iterator[np.ndarray]:
            first = running.popleft()
            real = first.places >= 0
            first.scores[first.places[real]] = np.asarray(first.result)[real]
            if on_scored:
                on_scored(int(real.sum()))
            if first.ends_chunk:
                yield first.scores

        for window in _render_ahead(render, chunks):
            if not window.prompts:
                while running:
                    yield from collect()
                yield window.scores
            left = len(window.prompts)
            for batch in self._batches(window.prompts, window.queries):
                is_real = batch.examples >= 0
                places = np.where(is_real, window.start + batch.examples, -1)
                left -= int(is_real.sum())
                ends = window.is_last and left == 0
                running.append(_Started(self._start(batch), window.scores, places, ends))
                if len(running) == BATCHES_IN_FLIGHT:  # the device always has the next one when it ends one
                    yield from collect()
        while running:
            yield from collect()

    def warm_up(self, shortest: int, longest: int) -> None:
        """Compiles for all batches of prompts of so many tokens, the largest first, by scoring fillers."""
        narrowest, widest = self.shapes.width_for(shortest), self.shapes.width_for(longest)
        widths = [width for width in self.shapes.widths if narrowest <= width <= widest]
        for width in reversed(widths):
            for rows in reversed(self.shapes.rows):
                if rows <= self.shapes.most_rows(width):
                    filler = [np.zeros(width, np.int32)] * rows
                    jax.block_until_ready(self._start(pad_batch(filler, range(rows), self.shapes)))

    def _batches(
        self, prompts: Sequence[np.ndarray], queries: Sequence[str]
    ) -> Iterator[Batch | PackedBatch]:
        """The prompts in batches of static shapes; `examples` has their places."""
        shapes, config = self.shapes, self._config
        if self._packed_step is None:
            return padded_batches(prompts, shapes, config)
        rows = self._row_tokens
        return packed_or_padded_batches(prompts, queries, shapes, self._ways, config, rows, fine=self._on_cpu)

    def _start(self, batch: Batch | PackedBatch) -> jax.Array:
        # jax lets threads compute at once, but does not say that all devices then get their programs in one
        # order, without which two batches could wait for each other's collectives.
        with self._starting:
            if len(self._in_flight) == BATCHES_IN_FLIGHT:
                _wait_for(self._in_flight.popleft())
            self._in_flight.append(self._compute(batch))
            return self._in_flight[-1]

    def _compute(self, batch: Batch | PackedBatch) -> jax.Array:
        if isinstance(batch, Batch):
            self.compiled_shapes.add(batch.tokens.shape)
            return self._step(self._params, put_whole_batch(batch, self._mesh))
        assert self._packed_step is not None
        shape = (*batch.tokens.shape, batch.starts.shape[1], batch.width, batch.prefix_width)
        self.compiled_shapes.add(shape)
        return self._packed_step(self._params, put_whole_batch(batch, self._mesh))


def _wait_for(result: jax.Array) -> None:
    with suppress(Exception):  # what became of it is for the thread that collects it
        jax.block_until_ready(result)


def _render_ahead(render: RenderWindow, chunks: Iterable[Sequence[Pair]]) -> Iterator[_Window]:
    """Yields the windows of all chunks, one for an empty chunk too; the next one is rendered meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="render") as thread:
        submitted = (
            thread.submit(_render_window, render, pairs, scores, start)
            for pairs, scores in ((pairs, np.empty(len(pairs), np.float32)) for pairs in chunks)
            for start in range(0, max(1, len(pairs)), WINDOW)
        )
        yield from results_ahead(submitted, 1)


def _render_window(render: RenderWindow, pairs: Sequence[Pair], scores: np.ndarray, start: int) -> _Window:
    """Prompts become int32 arrays: lists of Python integers take nine times the memory."""
    chosen = pairs[start : start + WINDOW]
    prompts = [np.asarray(ids, np.int32) for ids in render(chosen)] if chosen else []
    return _Window([query for query, _ in chosen], prompts, scores, start)
