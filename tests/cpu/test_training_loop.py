"""The loop between the steps of a run, by a clock of the test's own; whole runs are in tests/runs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import prorank_jax.training_loop
from prorank_jax.config_files import config_from_flat
from prorank_jax.metrics_log import METRICS_FILE
from prorank_jax.probe import ProbeResult
from prorank_jax.stages import Work
from prorank_jax.training_loop import TrainingLoop

STEP, PROBE, SAVE = 2.0, 100.0, 1000.0  # seconds


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 5.0

    def perf_counter(self) -> float:
        return self.now


class Awaited:
    """A metric whose value is there when its step has run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __float__(self) -> float:
        self._clock.now += STEP
        return 0.0


class Batches:
    """An endless iterator."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        return {}


def make_loop(
    folder: Path,
    clock: Clock,
    changes: dict[str, Any],
    monkeypatch,
    reads: Callable[[], Any] | None = None,
) -> TrainingLoop:
    """A loop whose step, probe and checkpoints do nothing but take their time.

    Args:
        reads: gives the initial parameters to a stage that keeps them as its reference, too.
    """

    def probe(*given: Any, **_: Any) -> ProbeResult:
        clock.now += PROBE
        return ProbeResult(given[5], 1, 1.0, 1.0, 1.0, 1.0, [0.0], [1])

    def save(*_: Any) -> None:
        clock.now += SAVE

    module = prorank_jax.training_loop
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "run_probe", probe)
    given = {"signs_so_far": {}, "put_batch": None, "all_params": None, "smaller_step": "lower it"}
    for name, value in given.items():
        monkeypatch.setattr(module, name, lambda *_, value=value: value)
    stage = SimpleNamespace(
        batches=Batches,
        step=lambda state, *_: (state, {"skipped": Awaited(clock)}, None),
        temporary_bytes=lambda *_: 1 << 60,
        work=lambda _: Work(prompts=6, tokens=30, flops=9 * 10**12),
        uses_reference=reads is not None,
        shown=(),
    )
    run = SimpleNamespace(
        config=config_from_flat(changes),
        stage=stage,
        abstract_state=None,
        load_initial_params=reads or (lambda: None),
        init_state=lambda params: params,
        mesh=None,
        probe_step=None,
        held_out=None,
        renderer=SimpleNamespace(answer_tokens=None),
        examples=None,
        inputs={},
        model_config=SimpleNamespace(to_hf=dict),
    )
    place = SimpleNamespace(folder=folder, name=str(folder), send=lambda: None, remove=lambda _: None)
    checkpoints = SimpleNamespace(restore_newest=lambda _: None, save=save)
    stop, compilations = SimpleNamespace(says_stop=lambda: False), SimpleNamespace(count=0)
    parts: list[Any] = [run, place, checkpoints, compilations, stop, Console(file=io.StringIO())]
    return TrainingLoop(*parts)


@pytest.mark.parametrize(("probes", "saves"), [(2, 3), (3, 2), (4, 1), (1, 7)])
def test_the_speed_of_a_step_is_that_of_the_step_alone(probes, saves, tmp_path, monkeypatch):
    """What a probe and a checkpoint take is no time of the step before or behind them."""
    clock = Clock()
    changes = {"train.steps": 7, "train.sample_every": 0, "probe.every": probes, "checkpoint.every": saves}
    assert make_loop(tmp_path, clock, changes, monkeypatch).run_to_end() == 7
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 8))
    for line in lines:
        assert line["prompts_per_second"] == 6 / STEP
        assert line["tokens_per_second"] == 30 / STEP
    assert clock.now > 7 * STEP + PROBE + SAVE


def test_a_step_that_the_machine_has_no_room_for_is_told_before_it_runs(tmp_path, monkeypatch, caplog):
    clock = Clock()
    started: list[float] = []
    logged = logging.Handler()
    logged.emit = lambda _: started.append(clock.now)
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patched:
        logging.getLogger("prorank_jax.step_room").addHandler(logged)
        make_loop(tmp_path, clock, {"train.steps": 3}, patched).run_to_end()
        logging.getLogger("prorank_jax.step_room").removeHandler(logged)
    assert caplog.text.count("or lower it") == 1
    assert started == [Clock().now + PROBE]


def test_a_model_that_is_its_own_reference_is_read_once(tmp_path, monkeypatch):
    """The state's buffers are given away step by step; those of the reference stay."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    reads: list[dict[str, jax.Array]] = []

    def read() -> dict[str, jax.Array]:
        reads.append({"kernel": jax.device_put(jnp.arange(8.0), sharding)})
        return reads[-1]

    loop = make_loop(tmp_path, Clock(), {}, monkeypatch, read)
    assert len(reads) == 1
    state, reference = loop._state, loop._reference
    assert state["kernel"].sharding == sharding
    np.testing.assert_array_equal(state["kernel"], np.arange(8.0))
    state["kernel"].delete()
    np.testing.assert_array_equal(reference["kernel"], np.arange(8.0))
