"""Renders the prompts of many pairs, in this process or spread over others.

One core cuts documents to key sentences for some hundred prompts in a second; an accelerator scores more.
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from prorank_jax.input_checks import Pair
from prorank_jax.machine import usable_cores
from prorank_jax.prompts import PromptRenderer
from prorank_jax.storage_faults import OutOfReachError

# Prompts rendered together: a tokenizer's own results take a hundred times the memory of the ids in them.
PIECE = 64
# More than an accelerator needs, and each takes 200 MB.
_MOST_PROCESSES = 8

Rendering = Callable[[Sequence[Pair]], list[np.ndarray]]


def in_this_process(renderer: PromptRenderer) -> Rendering:
    """Gives the prompts of any number of pairs, each int32 [tokens], a piece of them after the other."""

    def render(pairs: Sequence[Pair]) -> list[np.ndarray]:
        return [
            np.asarray(ids, np.int32)
            for piece in _pieces(pairs, PIECE)
            for ids in renderer.render_batch(piece)
        ]

    return render


def useful_processes(is_accelerated: bool) -> int:
    """How many processes should render beside a model on this machine; 0: this one alone.

    On a CPU the model needs all cores itself. Beside an accelerator half of them render: the others start
    its work and feed it.
    """
    cores = usable_cores()
    return min(cores // 2, _MOST_PROCESSES) if is_accelerated and cores >= 4 else 0


@contextmanager
def in_processes(renderer: PromptRenderer, processes: int) -> Iterator[Rendering]:
    """What `in_this_process` gives, to the token, by so many processes of their own.

    They start with the first call, import no jax and touch no accelerator, and are gone after the block or
    when this process is. `renderer.truncated_queries` counts what they cut; in one piece an equal query
    counts once.

    They are started as `multiprocessing` starts any: a script that comes here must have its work under
    `if __name__ == "__main__":`, for they import it too.

    Args:
        processes: 0: this one, and no other.

    Raises:
        OutOfReachError: by the rendering, if one of them is killed.
    """
    if processes == 0:
        yield in_this_process(renderer)
        return
    # Not forked: a fork of a process with threads can hang, and XLA has many.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _begin, (renderer,))

    def render(pairs: Sequence[Pair]) -> list[np.ndarray]:
        size = min(PIECE, math.ceil(len(pairs) / processes))  # so that each has something to do
        found: list[np.ndarray] = []
        try:
            for rendered in pool.map(_render_piece, _pieces(pairs, size)):
                renderer.count_truncated(rendered.truncated)
                found += np.split(rendered.tokens, rendered.ends[:-1])
        except BrokenProcessPool as error:
            _let_go(pool)
            raise OutOfReachError(
                f"one of {processes} processes that render prompts was killed, perhaps for want of memory; "
                "give fewer (--render_processes; 0: none), and repeat the same command"
            ) from error
        return found

    try:
        yield render
    finally:
        pool.shutdown(cancel_futures=True)


def _let_go(pool: ProcessPoolExecutor) -> None:
    """Lets a broken pool end: a thread of it may be writing texts into a pipe that nobody reads any more.

    As Python does by itself from 3.11.5 on (gh-94777): without a reader the write fails, and the thread ends.
    """
    reader = getattr(getattr(pool, "_call_queue", None), "_reader", None)
    if reader is not None and not reader.closed:
        with suppress(OSError):
            reader.close()


class _Rendered(NamedTuple):
    """Prompts one after the other, where each ends, and how many queries were cut."""

    tokens: np.ndarray
    ends: np.ndarray
    truncated: int


def _pieces(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    return (pairs[start : start + size] for start in range(0, len(pairs), max(1, size)))


# Of a process that renders for another one: set once, before its first piece.
_renderer: PromptRenderer | None = None


def _begin(renderer: PromptRenderer) -> None:
    global _renderer
    _renderer = renderer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's to answer
    logging.disable()  # it says what there is to say
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Of a killed process the workers would wait for work for ever: each holds the pipe's other end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _render_piece(pairs: Sequence[Pair]) -> _Rendered:
    assert _renderer is not None
    before = _renderer.truncated_queries
    prompts = _renderer.render_batch(pairs)
    ends = np.fromiter(itertools.accumulate(map(len, prompts)), np.int64, len(prompts))
    tokens = np.fromiter(itertools.chain.from_iterable(prompts), np.int32, int(ends[-1]))
    return _Rendered(tokens, ends, _renderer.truncated_queries - before)
