"""Starts a tiny run in one or several processes that share eight simulated devices."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cpu.tiny_run import command_line, tiny_fields
from tests.runs.observed_run import THEN

SCRIPT = Path(__file__).with_name("observed_run.py")
DEVICES = 8
STEPS = 6
PATIENCE_SECONDS = 400


def shared_fields(workshop: Path, output_dir: str, **changes: Any) -> dict[str, Any]:
    """A run whose batches eight devices can share."""
    fields = tiny_fields(workshop / "model", workshop / "collection", Path(output_dir))
    small = {
        "output_dir": output_dir,
        "data.buckets": (208,),
        "train.steps": STEPS,
        "train.batch_size": 8,
        "train.sample_every": 0,
        "checkpoint.every": 2,
        "probe.every": 3,
        "probe.batch_size": 8,
    }
    return fields | small | {name.replace("__", "."): value for name, value in changes.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Ended:
    """What the processes left: exit codes and what each said."""

    codes: list[int]
    said: list[str]


def start(
    commands: Sequence[Sequence[str]],
    environments: Sequence[dict[str, str]] = (),
    folders: Sequence[Path] = (),
) -> list[subprocess.Popen[str]]:
    """Starts Python scripts as the processes of one job, which share the simulated devices."""
    count, port = len(commands), free_port()
    started = []
    for number, command in enumerate(commands):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(number),
        }
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folders[number] if folders else None,
            env=environment | (environments[number] if environments else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    return started


def wait_for(started: Sequence[subprocess.Popen[str]]) -> Ended:
    """Waits for all of them."""
    try:
        said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return Ended([process.returncode for process in started], said)


class Processes:
    """The processes of one run, or of several one after the other.

    `records` gets a file for each with the examples it fed.
    """

    def __init__(
        self,
        fields: Sequence[dict[str, Any] | list[dict[str, Any]]],
        records: Path,
        environments: Sequence[dict[str, str]] = (),
        folders: Sequence[Path] = (),
    ) -> None:
        records.mkdir(parents=True, exist_ok=True)
        commands = [
            [
                str(SCRIPT),
                str(records / f"{number}.jsonl"),
                *_commands(own if isinstance(own, list) else [own]),
            ]
            for number, own in enumerate(fields)
        ]
        self.started = start(commands, environments, folders)

    def when(self, ready: Callable[[], bool], act: Callable[[list[subprocess.Popen[str]]], None]) -> None:
        """Acts once something has come about, unless a process ends before."""
        while not ready() and all(process.poll() is None for process in self.started):
            time.sleep(0.01)
        act(self.started)

    def end(self) -> Ended:
        """Waits for all of them."""
        return wait_for(self.started)


def _commands(runs: dict[str, Any] | list[dict[str, Any]]) -> list[str]:
    first, *others = map(command_line, runs if isinstance(runs, list) else [runs])
    return [*first, *(argument for command in others for argument in (THEN, *command))]


def run_together(count: int, fields: dict[str, Any], records: Path) -> Ended:
    """The same command in `count` processes."""
    return Processes([fields] * count, records).end()
