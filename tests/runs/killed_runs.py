"""Runs that are killed with SIGKILL at moments of choice and started again until they end."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from prorank_jax.config_files import config_to_dict, load_config
from prorank_jax.metrics_log import METRICS_FILE, read_lines
from prorank_jax.run_folder import CHECKPOINTS_FOLDER, DATA_FOLDER, OPTIMIZER_ITEM, REPORT_FILE
from prorank_jax.run_report import PROBES_FILE
from prorank_jax.saved_state import STATE_ITEM
from tests.cpu.tiny_run import LAUNCHER

SPEEDS = {"prompts_per_second", "tokens_per_second", "model_tflops", "compilations"}
_POLL_SECONDS = 0.001
_PATIENCE_SECONDS = 600

Moment = Callable[[Path], bool]


def lines_reached(count: int) -> Moment:
    """So many lines of metrics, or one torn off."""

    def reached(folder: Path) -> bool:
        file = folder / METRICS_FILE
        return file.exists() and file.read_bytes().count(b"\n") >= count

    return reached


def _saving(folder: Path) -> bool:
    return any("tmp" in path.name for path in (folder / CHECKPOINTS_FOLDER).glob("*"))


def _building(folder: Path) -> bool:
    return (folder / DATA_FOLDER).is_dir() and not (folder / METRICS_FILE).exists()


def _reporting(folder: Path) -> bool:
    return any(folder.glob(f".{REPORT_FILE}.*")) or (folder / REPORT_FILE).exists()


def draw_moment(rng: random.Random, steps: int) -> tuple[str, Moment]:
    """A kind of moment and a test for it, with a delay, so that no place is left out."""
    kind = rng.choice(["data", "step", "checkpoint", "report", "time"])
    after = rng.uniform(0, 0.05)
    started = time.monotonic()
    if kind == "time":
        wait = rng.uniform(0, 15)
        return kind, lambda _: time.monotonic() - started > wait
    base = {
        "data": _building,
        "step": lines_reached(rng.randint(1, steps)),
        "checkpoint": _saving,
        "report": _reporting,
    }[kind]
    seen: list[float] = []

    def reached(folder: Path) -> bool:
        if not seen and base(folder):
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= after

    return kind, reached


def start(config: Path, log: Path, cache: Path) -> subprocess.Popen[bytes]:
    """The launcher in a process of its own, on one device; compiled programs are kept in `cache`.

    It is not the cache that the tests share: who is killed may leave half a program there.
    """
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(LAUNCHER), "--config", str(config)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def write_config_file(fields: dict[str, Any], file: Path) -> Path:
    file.write_text(yaml.safe_dump(config_to_dict(load_config(None, fields))))
    return file


def run_to_end(config: Path, folder: Path, cache: Path) -> None:
    log = folder.with_suffix(".log")
    process = start(config, log, cache)
    assert process.wait(_PATIENCE_SECONDS) == 0, log.read_text()


def kill_at(config: Path, folder: Path, cache: Path, moment: Moment) -> bool:
    """Starts the run and kills it then; False where it had ended before."""
    log = folder.with_suffix(".log")
    process = start(config, log, cache)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and not moment(folder):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(_POLL_SECONDS)
    if process.poll() is None:
        process.kill()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), log.read_text()
    return code != 0


def saved_state(step: Path) -> list[Any]:
    """The state in the folder of a checkpoint, as it lies there."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return [reader.restore(step / item) for item in (STATE_ITEM, OPTIMIZER_ITEM)]


def contents(folder: Path, steps: int) -> dict[str, Any]:
    """What must not differ: metrics without speeds, probes, the last state byte by byte, where data stood."""
    last = folder / CHECKPOINTS_FOLDER / str(steps)
    metrics = [
        {name: value for name, value in record.items() if name not in SPEEDS}
        for record in read_lines(folder / METRICS_FILE)
    ]
    assert [record["step"] for record in metrics] == list(range(1, steps + 1))
    import jax
    import numpy as np

    return {
        "metrics": metrics,
        "probes": read_lines(folder / PROBES_FILE),
        "state": [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(saved_state(last))],
        "iterator": json.loads((last / "iterator" / "metadata").read_text()),
    }


def kill_many(
    fields: Callable[[Path], dict[str, Any]], workplace: Path, kills: int, steps: int, seed: int
) -> Counter[str]:
    """Kills runs until so many kills are made; each run must end as one that was never killed.

    Returns:
        How many kills came at each kind of moment.
    """
    rng, made, cache = random.Random(seed), Counter[str](), workplace / "cache"

    def new_run(name: str) -> tuple[Path, Path]:
        folder = workplace / name
        return folder, write_config_file(fields(folder), workplace / f"{name}.yaml")

    folder, config = new_run("whole")
    run_to_end(config, folder, cache)
    expected = contents(folder, steps)
    for number in itertools.count():
        folder, config = new_run(f"killed{number}")
        was_killed = True
        while was_killed and sum(made.values()) < kills:
            kind, moment = draw_moment(rng, steps)
            was_killed = kill_at(config, folder, cache, moment)
            made[kind] += was_killed
        run_to_end(config, folder, cache)
        found = contents(folder, steps)
        for name, value in expected.items():
            assert found[name] == value, f"{name} of {folder} after {dict(made)}"
        if sum(made.values()) >= kills:
            return made
    raise AssertionError
