"""The peer's best micro-batch, found before anything is compared: a peer is measured at its fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prorank_jax.benchmarks.loading import load_side
from prorank_jax.benchmarks.rounds import Round, read_round
from prorank_jax.benchmarks.side_process import SideProcess
from prorank_jax.benchmarks.work import write_settings
from prorank_jax.storage_faults import TooLittleMemoryError

Result = TypeVar("Result")

TRIED = "peer_batch"


def fastest_batch(
    settings: dict[str, Any],
    sizes: Sequence[int],
    work: Path,
    dtype: str,
    start: Callable[[], SideProcess],
    show: Callable[[int, Round | None], None] = lambda *_: None,
) -> dict[int, float]:
    """Runs the peer alone with each micro-batch: one round to warm up and one that counts.

    A size that finds no room is left out. Leaves `work.json` with the fastest.

    Args:
        settings: of `work.json`; `peer_batch` is set to the fastest size.
        sizes: micro-batches to try, in sequences.
        dtype: that the peer must compute in.
        start: makes the peer's process, not started yet.
        show: called with each size and its round; None: it found no room.

    Returns:
        Size → seconds of its round.

    Raises:
        ValueError: the peer fails with a size for another reason, or computes in another dtype.
        TooLittleMemoryError: no size finds room.
    """
    seconds: dict[int, float] = {}
    for size in sizes:
        write_settings(work, settings | {TRIED: size})
        try:
            done = _second_round(start(), work, dtype)
        except TooLittleMemoryError:
            show(size, None)
            continue
        seconds[size] = done.seconds
        show(size, done)
    if not seconds:
        raise TooLittleMemoryError(
            f"{TRIED}={list(sizes)}: the peer finds no room with any of these; "
            "give smaller ones, or a smaller step"
        )
    settings[TRIED] = min(seconds, key=lambda size: seconds[size])
    write_settings(work, settings)
    return seconds


def with_room(
    settings: dict[str, Any], work: Path, compare: Callable[[], Result], tell: Callable[[str], None]
) -> Result:
    """What `compare` gives with the fastest of the tuned micro-batches that finds room beside our side.

    Args:
        settings: of `work.json`, which `compare` reads; without `peer_batch_seconds` there is one size.
        tell: is told the size that is taken, and why another one is.

    Raises:
        TooLittleMemoryError: none finds room.
    """
    by_seconds = settings.get("peer_batch_seconds", {})
    slower = sorted(by_seconds, key=by_seconds.__getitem__)[1:]
    while True:
        if TRIED in settings:
            tell(f"takes micro-batch {settings[TRIED]}")
        try:
            return compare()
        except TooLittleMemoryError as error:
            if not slower:
                raise
            tell(f"{error}; the next fastest micro-batch is taken")
        settings[TRIED] = slower.pop(0)
        write_settings(work, settings)


def _second_round(side: SideProcess, work: Path, dtype: str) -> Round:
    with side as peer:
        load_side(peer, work, dtype)
        peer.ask("prepare")
        peer.ask("round")
        return read_round(peer.name, peer.ask("round"))
