"""A run that moves to other devices, or fits its step to them otherwise, sees and learns the same."""

from __future__ import annotations

import io
import json
import os
import signal
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

import prorank_jax.models.attention
import prorank_jax.run_report
import prorank_jax.setup
import prorank_jax.training_loop
from prorank_jax.config_files import load_config
from prorank_jax.launching import Interrupted
from prorank_jax.metrics_log import METRICS_FILE, MetricsLog, read_lines
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.sharding import make_mesh
from prorank_jax.train import train
from tests.cpu.tiny_run import tiny_fields, write_collection, write_model_folder
from tests.runs.test_train import at_step

STEPS = 9
# The mesh, and after which step it is taken away.
STRETCHES = (({"data": 4, "fsdp": 2}, 2), ({"data": 1}, 5), ({"data": 2, "fsdp": 1, "tensor": 2}, STEPS))


# What fits a step to a machine; of the last, on a CPU the interpreter of the kernel.
OTHERWISE = {
    "train.accumulation": 4,
    "probe.batch_size": 4,
    "model.remat": "full",
    "model.attention": "splash",
}
MOVED_AFTER, FEW_STEPS = 2, 6


@pytest.fixture(name="seen")
def watched_batches(monkeypatch) -> list[np.ndarray]:
    """The examples of each step, of runs on as many devices as their mesh names."""
    seen: list[np.ndarray] = []
    put_batch = prorank_jax.training_loop.put_batch

    def watched(batch, mesh):
        seen.append(np.asarray(batch.examples))
        return put_batch(batch, mesh)

    def make_mesh_of(options):
        size = np.prod([max(one, 1) for one in (options.data, options.fsdp, options.tensor)])
        return make_mesh(options, jax.devices()[: int(size)])

    monkeypatch.setattr(prorank_jax.setup, "make_mesh", make_mesh_of)
    monkeypatch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
    monkeypatch.setattr(prorank_jax.training_loop, "put_batch", watched)
    return seen


def runner(folder: Path, stage: int, steps: int) -> Callable[..., None]:
    """Runs, of a tiny model, in folders by name; mostly of the same fields."""
    model, collection = write_model_folder(folder / "model"), write_collection(folder / "collection")

    def run(name: str, **changed: Any) -> None:
        fields = tiny_fields(model, collection, folder / name) | {
            "stage": stage,
            "ranking.list_size": 3,
            "train.steps": steps,
            "train.batch_size": 8,
            "probe.batch_size": 8,
            "checkpoint.every": 100,
            **changed,
        }
        if stage == 2:
            del fields["data.buckets"]
        train(load_config(None, fields), Console(file=io.StringIO(), width=120))

    return run


def stop_after(step: int, run: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        told = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patch.setattr(MetricsLog, "write", at_step(step, told))
        with pytest.raises(Interrupted):
            run()


def assert_learned_the_same(ours: Path, theirs: Path, steps: int, **tolerances: float) -> None:
    mine, expected = (read_lines(folder / METRICS_FILE) for folder in (ours, theirs))
    assert [record["step"] for record in mine] == list(range(1, steps + 1))
    for name in ("loss", "grad_norm", "learning_rate"):
        np.testing.assert_allclose(
            [record[name] for record in mine],
            [record[name] for record in expected],
            **{"rtol": 1e-3, **tolerances},
            err_msg=name,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("shared_programs", "rough_pictures")  # on one device both runs compute the same
def test_a_run_moves_from_8_devices_to_1_to_4(tmp_path, seen):
    """In stage 2, whose batches are lists; test_processes.py moves a run of stage 1."""
    start = runner(tmp_path, stage=2, steps=STEPS)

    def run(name: str, mesh: dict[str, int]) -> None:
        start(name, **{f"mesh.{axis}": size for axis, size in mesh.items()})

    run("whole", {"data": 1})
    expected = seen.copy()
    seen.clear()
    for mesh, until in STRETCHES:
        if until == STEPS:
            run("moved", mesh)
            continue
        stop_after(until, partial(run, "moved", mesh))
        before_last = len(read_lines(tmp_path / "moved" / METRICS_FILE))

    assert len(seen) == STEPS  # none lost, none repeated
    np.testing.assert_array_equal(seen, expected)
    assert_learned_the_same(tmp_path / "moved", tmp_path / "whole", STEPS)
    ours = read_lines(tmp_path / "moved" / METRICS_FILE)
    warm = ours[before_last + 1 :]  # of the devices that the report names, without compilation
    report = json.loads((tmp_path / "moved" / REPORT_FILE).read_text())
    assert report["measured_steps"] == len(warm)
    for name in ("prompts_per_second", "model_tflops"):
        assert report[f"median_{name}"] == statistics.median(record[name] for record in warm)


@pytest.mark.slow
@pytest.mark.usefixtures("rough_pictures")
@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_goes_on_with_its_step_computed_otherwise(stage, tmp_path, seen, monkeypatch):
    make_model, splash, calls = (
        prorank_jax.setup.make_model,
        prorank_jax.models.attention.splash_attention,
        [],
    )

    def interpreted(config, shape):
        model = make_model(config, shape)
        return model.clone(attention="splash_interpreted") if model.attention == "splash" else model

    def counted(*arguments):
        calls.append(1)
        return splash(*arguments)

    monkeypatch.setattr(prorank_jax.setup, "make_model", interpreted)
    monkeypatch.setattr(prorank_jax.setup, "check_implementation", lambda *_: None)
    monkeypatch.setattr(prorank_jax.models.attention, "splash_attention", counted)
    run = runner(tmp_path, stage, FEW_STEPS)

    run("whole", **{"mesh.data": 1})
    expected = seen.copy()
    seen.clear()
    stop_after(MOVED_AFTER, partial(run, "moved", **{"mesh.data": 1}))
    assert not calls
    run("moved", **{"mesh.data": 1, **OTHERWISE})
    assert calls

    assert len(seen) == FEW_STEPS
    for ours, theirs in zip(seen, expected, strict=True):  # of several lengths
        np.testing.assert_array_equal(ours, theirs)
    assert_learned_the_same(tmp_path / "moved", tmp_path / "whole", FEW_STEPS, atol=1e-6)
    if stage == 1:  # the very same completions were sampled
        rewards = [
            [
                (r["reward"], r["format_rate"], r["accuracy"])
                for r in read_lines(tmp_path / name / METRICS_FILE)
            ]
            for name in ("moved", "whole")
        ]
        assert rewards[0] == rewards[1]
