"""Scores pairs in batches of a few static shapes, while the host renders the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from prorank_jax.batch_shapes import make_batch_shapes, pad_batch, plan_batches, plan_flops
from prorank_jax.input_checks import Pair
from prorank_jax.models.transformer import Transformer
from prorank_jax.process_rows import put_whole_batch
from prorank_jax.prompts import AnswerTokens
from prorank_jax.shared_prefix import pad_lists, plan_lists
from prorank_jax.steps import make_list_score_step, make_score_step
from prorank_jax.types import Batch, ListBatch, Params

RenderBatch = Callable[[Sequence[Pair]], list[list[int]]]
# Pairs that are rendered and then batched by length together; the next so many are rendered meanwhile.
WINDOW = 1024
_RENDERED_AT_ONCE = 64


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
        share_prefixes: bool = False,
    ) -> None:
        """Takes parameters that are on the mesh; nothing is compiled yet.

        Args:
            max_length: of a prompt in tokens.
            batch_size: prompts of a full batch.
            share_prefixes: compute what the prompts of a query share once, where its pairs follow each
                other and that is less work. It pays for many pairs: more shapes are compiled.
        """
        self._ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self.shapes = make_batch_shapes(max_length, batch_size, self._ways)
        self.compiled_shapes: set[tuple[int, ...]] = set()
        self._params = params
        self._mesh = mesh
        self._config = model.config
        self._step = make_score_step(model, answers, mesh)
        self._list_step = make_list_score_step(model, answers, mesh) if share_prefixes else None

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
            real = places >= 0
            scores[places[real]] = np.asarray(result)[real]
            if on_scored:
                on_scored(int(real.sum()))

        for start, prompts in _render_ahead(render, pairs):
            queries = [query for query, _ in pairs[start : start + len(prompts)]]
            for batch in self._batches(prompts, queries):
                places = np.where(batch.examples >= 0, start + batch.examples, -1)
                running.append((places, self._start(batch)))
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
                    jax.block_until_ready(self._start(pad_batch(filler, range(rows), self.shapes)))

    def _batches(self, prompts: Sequence[np.ndarray], queries: Sequence[str]) -> Iterator[Batch | ListBatch]:
        """The prompts in batches of static shapes; `examples` has their places."""
        plans = plan_batches([len(prompt) for prompt in prompts], self.shapes, self._config)
        lists = plan_lists(prompts, queries, self.shapes, self._ways) if self._list_step else None
        if lists is not None:
            shared = sum(plan.flops(self._config) for plan in lists)
            if shared < plan_flops(plans, prompts, self.shapes, self._config):
                yield from (pad_lists(plan, prompts) for plan in lists)
                return
        yield from (pad_batch(prompts, places, self.shapes) for places in plans)

    def _start(self, batch: Batch | ListBatch) -> jax.Array:
        if isinstance(batch, Batch):
            self.compiled_shapes.add(batch.tokens.shape)
            return self._step(self._params, put_whole_batch(batch, self._mesh))
        assert self._list_step is not None
        rows, _, width = batch.tokens.shape
        self.compiled_shapes.add((rows, batch.prefix.shape[1], width))
        return self._list_step(self._params, put_whole_batch(batch, self._mesh))


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
