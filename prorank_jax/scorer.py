"""Scores pairs in batches of a few static shapes, while the host renders the next ones."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from prorank_jax.input_checks import Pair
from prorank_jax.models.transformer import Transformer
from prorank_jax.process_rows import put_whole_batch
from prorank_jax.prompts import AnswerTokens
from prorank_jax.steps import make_score_step
from prorank_jax.types import Batch, Params

RenderBatch = Callable[[Sequence[Pair]], list[list[int]]]
# Pairs that are rendered and then batched by length together; the next so many are rendered meanwhile.
WINDOW = 1024
# A batch has all its rows up to this width; beyond it fewer, as attention's memory grows with the square.
FULL_BATCH_WIDTH = 512
_RENDERED_AT_ONCE = 64
_LEAST_WIDTH = 32


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

    def most_rows(self, width: int) -> int:
        """B of a full batch of this width: B·T² stays within that of a batch of FULL_BATCH_WIDTH."""
        bound = self.rows[-1] * FULL_BATCH_WIDTH**2
        fitting = [rows for rows in self.rows if rows * width**2 <= bound]
        return fitting[-1] if fitting else self.rows[0]


def make_batch_shapes(max_length: int, batch_size: int, ways: int) -> BatchShapes:
    """Widths in steps of 32 up to 256, then four an octave; rows in powers of two times `ways`.

    Args:
        max_length: of a prompt, in tokens.
        batch_size: B of a full batch; rounded up to a multiple of `ways`.
        ways: over how many devices the rows of a batch are split.
    """
    widths, width = [], _LEAST_WIDTH
    while width < max_length:
        widths.append(width)
        width += max(32, 2 ** (width.bit_length() - 3))
    most = -(-batch_size // ways) * ways
    powers = range((most // ways).bit_length())
    rows = sorted({*(ways * 2**power for power in powers), most})
    return BatchShapes(rows=tuple(rows), widths=(*widths, max_length))


def plan_batches(lengths: Sequence[int], shapes: BatchShapes) -> list[np.ndarray]:
    """Which prompts share a batch: their places, the longest first, each batch as full as it may be.

    So the largest shape is the first to run: what does not fit the memory fails at once.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches = []
    while len(order):
        rows = shapes.most_rows(shapes.width_for(lengths[order[0]]))
        batches.append(order[:rows])
        order = order[rows:]
    return batches


def pad_batch(prompts: Sequence[np.ndarray], shapes: BatchShapes) -> Batch:
    """Prompts of int32 token ids as one batch, with filler rows of one token up to a static B."""
    rows = shapes.rows_for(len(prompts))
    tokens = np.zeros((rows, shapes.width_for(max(map(len, prompts)))), np.int32)
    lengths = np.ones(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    examples = np.where(np.arange(rows) < len(prompts), np.arange(rows), -1).astype(np.int32)
    return Batch(tokens=tokens, lengths=lengths, labels=np.zeros(rows, np.int32), examples=examples)


class PairScorer:
    """A model on a mesh that scores pairs; the renderer comes with each call, so prompts may differ.

    Every process of a run over several hosts calls it with the same pairs and gets all scores.
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
    ) -> None:
        """Takes parameters that are on the mesh; nothing is compiled yet."""
        self.shapes = make_batch_shapes(max_length, batch_size, mesh.shape["data"] * mesh.shape["fsdp"])
        self.compiled_shapes: set[tuple[int, int]] = set()
        self._params = params
        self._mesh = mesh
        self._step = make_score_step(model, answers, mesh)

    def score(
        self, render: RenderBatch, pairs: Sequence[Pair], on_scored: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Scores [n] float32 in the order of the pairs.

        Args:
            render: gives each pair's prompt, at most `max_length` tokens; runs on another thread.
            pairs: (query, document); only a window of them is rendered at a time.
            on_scored: is told how many more pairs have their scores.
        """
        scores = np.empty(len(pairs), np.float32)
        running: deque[tuple[np.ndarray, jax.Array]] = deque()

        def collect() -> None:
            places, result = running.popleft()
            scores[places] = np.asarray(result)[: len(places)]
            if on_scored:
                on_scored(len(places))

        for start, prompts in _render_ahead(render, pairs):
            for places in plan_batches([len(prompt) for prompt in prompts], self.shapes):
                batch = pad_batch([prompts[place] for place in places], self.shapes)
                running.append((start + places, self._start(batch)))
                if len(running) > 1:  # the device always has the next batch when it ends one
                    collect()
        while running:
            collect()
        return scores

    def warm_up(self, shortest: int, longest: int) -> None:
        """Compiles for all batches of prompts of so many tokens, the largest first, by scoring fillers."""
        narrowest, widest = self.shapes.width_for(shortest), self.shapes.width_for(longest)
        widths = [width for width in self.shapes.widths if narrowest <= width <= widest]
        for width in reversed(widths):
            for rows in reversed(self.shapes.rows):
                if rows <= self.shapes.most_rows(width):
                    filler = [np.zeros(width, np.int32)] * rows
                    jax.block_until_ready(self._start(pad_batch(filler, self.shapes)))

    def _start(self, batch: Batch) -> jax.Array:
        rows, width = batch.tokens.shape
        self.compiled_shapes.add((rows, width))
        with jax.set_mesh(self._mesh):  # attention by kernel splits its work over the mesh in context
            return self._step(self._params, put_whole_batch(batch, self._mesh))


def _render_ahead(render: RenderBatch, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yields each window's start and prompts; the next window is rendered while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="render") as thread:
        following = thread.submit(_render_window, render, pairs[:WINDOW])
        for start in range(0, len(pairs), WINDOW):
            prompts = following.result()
            end = start + WINDOW
            if end < len(pairs):
                following = thread.submit(_render_window, render, pairs[end : end + WINDOW])
            yield start, prompts


def _render_window(render: RenderBatch, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """Prompts as int32 arrays: lists of Python integers take nine times the memory."""
    starts = range(0, len(pairs), _RENDERED_AT_ONCE)
    return [
        np.asarray(ids, np.int32)
        for start in starts
        for ids in render(pairs[start : start + _RENDERED_AT_ONCE])
    ]
