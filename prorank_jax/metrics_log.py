"""What a run tells: metrics.jsonl, TensorBoard, a progress bar, and tables of sampled completions."""

from __future__ import annotations

import json
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from prorank_jax.jsonl import read_jsonl
from prorank_jax.messages import say
from prorank_jax.run_folder import write_atomically
from prorank_jax.storage_faults import naming_place

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tensorboard"
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompilationCounter:
    """Counts the programs XLA compiled in this process since the counter was made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        self.count += event == _COMPILE_EVENT


def keep_lines_up_to(file: Path, step: int) -> None:
    """Drops the lines of a JSONL file after `step`, and a torn last one, before a run goes on.

    Raises:
        ValueError: another line is damaged, which a run never leaves; the file stays as it is.
    """
    if not file.is_file():
        return
    *lines, last = file.read_bytes().split(b"\n")
    told = enumerate(lines, start=1)
    kept = [line for number, line in told if line.strip() and _step_of(file, number, line) <= step]
    with suppress(ValueError):  # cut off anywhere
        if _step_of(file, len(lines) + 1, last) <= step:
            kept.append(last)
    write_atomically(file, b"".join(line + b"\n" for line in kept))


def _step_of(file: Path, number: int, line: bytes) -> int:
    try:
        return operator.index(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:  # `3` is JSON too
        raise ValueError(
            f"{file}, line {number}: damaged ({type(error).__name__}: {error}); bring the file back from a "
            "copy, or delete that line"
        ) from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file; none if it does not exist.

    Raises:
        ValueError: a line is no object of JSON.
    """
    return [record for _, record in read_jsonl(file)] if file.is_file() else []


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Board:
    """TensorBoard's file, written on the caller's thread.

    tensorboardX's own `SummaryWriter` writes on another one, which a full disk ends without a word; the
    run would then wait for ever for room in its queue.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Hides the steps from `first_step` on that an earlier run left in the folder."""
        self._folder = folder
        with naming_place(folder):
            folder.mkdir(exist_ok=True)
            # Named by step too: a file of the same second must not be written over.
            self._events = EventsWriter(str(folder / "events"), f".{first_step}")
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming_place(self._folder):
            self._events.write_event(event)
            self._events.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [value for name, number in metrics.items() for value in scalar(name, number).value]
        event = Event(step=step)
        event.summary.value.extend(values)
        self._add(event)

    def close(self) -> None:
        self._events.close()


class MetricsLog:
    """Appends one line a step to metrics.jsonl and the same numbers to TensorBoard."""

    def __init__(self, output_dir: Path, resumed_from: int) -> None:
        """Opens the logs, without any line after the step the run goes on from."""
        keep_lines_up_to(output_dir / METRICS_FILE, resumed_from)
        self._file = output_dir / METRICS_FILE
        self._lines = self._file.open("a", encoding="utf-8")
        self._board = _Board(output_dir / BOARD_FOLDER, resumed_from + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one step; NaN and infinity become null, which JSON can say."""
        record = {"step": step} | {name: _finite_or_none(value) for name, value in metrics.items()}
        with naming_place(self._file):
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
        self._board.write(step, metrics)

    def close(self) -> None:
        """Closes both logs, also where what they still held cannot be written: its step is not saved."""
        for log in (self._lines, self._board):
            with suppress(OSError):
                log.close()


class TrainingProgress:
    """A progress bar with the metrics that matter; a context manager."""

    def __init__(self, console: Console, steps: int, done: int, shown: Sequence[str]) -> None:
        """Starts after `done` steps; `shown` names the metrics beside the bar."""
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=steps, completed=done, metrics="compiling")
        self._console = console
        self._steps = steps
        self._shown = shown

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of a step; where there is no terminal, one line every tenth step."""
        shown = " ".join(f"{name.removesuffix('_per_second')} {metrics[name]:.3g}" for name in self._shown)
        self._progress.update(self._task, completed=step, metrics=shown)
        if not self._console.is_terminal and (step % 10 == 0 or step == self._steps):
            say(self._console, f"step {step}/{self._steps} {shown}")


def completions_table(
    step: int,
    completions: Sequence[Sequence[Sequence[int]]],
    labels: Sequence[int],
    queries: Sequence[str],
    decode: Callable[[Sequence[int]], str],
) -> Table:
    """The most frequent completions of a few groups: [B][G][L] token ids, with what was wanted."""
    table = Table(title=f"sampled completions, step {step}", title_justify="left")
    for heading in ("query", "wanted", "completions (times sampled)"):
        table.add_column(heading)
    for group, label, query in zip(completions, labels, queries, strict=True):
        counts: dict[str, int] = {}
        for tokens in group:
            text = decode(tokens)
            counts[text] = counts.get(text, 0) + 1
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
        shown = "  ".join(f"{text!r} ({times})" for text, times in frequent)
        table.add_row(Text(query), str(label), Text(shown))
    return table
