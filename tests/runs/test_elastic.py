"""A run that moves from one number of devices to another sees the same examples and learns the same."""

from __future__ import annotations

import io
import json
import os
import signal
import statistics

import jax
import numpy as np
import pytest
from rich.console import Console

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


@pytest.mark.slow
@pytest.mark.usefixtures("shared_programs", "rough_pictures")  # on one device both runs compute the same
def test_a_run_moves_from_8_devices_to_1_to_4(tmp_path, monkeypatch):
    """In stage 2, whose batches are lists; test_processes.py moves a run of stage 1."""
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    seen: list[np.ndarray] = []
    put_batch = prorank_jax.training_loop.put_batch

    def watched(batch, mesh):
        seen.append(np.asarray(batch.examples))
        return put_batch(batch, mesh)

    def make_mesh_of(options):
        size = np.prod([max(one, 1) for one in (options.data, options.fsdp, options.tensor)])
        return make_mesh(options, jax.devices()[: int(size)])

    def run(name: str, mesh: dict[str, int]) -> None:
        fields = tiny_fields(model, collection, tmp_path / name) | {
            "stage": 2,
            "ranking.list_size": 3,
            "train.steps": STEPS,
            "train.batch_size": 8,
            "probe.batch_size": 8,
            "checkpoint.every": 100,
            **{f"mesh.{axis}": size for axis, size in mesh.items()},
        }
        del fields["data.buckets"]
        train(load_config(None, fields), Console(file=io.StringIO(), width=120))

    monkeypatch.setattr(prorank_jax.setup, "make_mesh", make_mesh_of)
    monkeypatch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
    monkeypatch.setattr(prorank_jax.training_loop, "put_batch", watched)

    run("whole", {"data": 1})
    expected, seen = seen, []
    for mesh, until in STRETCHES:
        if until == STEPS:
            run("moved", mesh)
            continue
        with monkeypatch.context() as patch:
            told = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            patch.setattr(MetricsLog, "write", at_step(until, told))
            with pytest.raises(Interrupted):
                run("moved", mesh)
            before_last = len(read_lines(tmp_path / "moved" / METRICS_FILE))

    assert len(seen) == STEPS  # none lost, none repeated
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (read_lines(tmp_path / name / METRICS_FILE) for name in ("moved", "whole"))
    assert [record["step"] for record in ours] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "learning_rate"):
        np.testing.assert_allclose(
            [record[name] for record in ours], [record[name] for record in theirs], rtol=1e-3, err_msg=name
        )
    warm = ours[before_last + 1 :]  # of the devices that the report names, without compilation
    report = json.loads((tmp_path / "moved" / REPORT_FILE).read_text())
    assert report["measured_steps"] == len(warm)
    for name in ("prompts_per_second", "model_tflops"):
        assert report[f"median_{name}"] == statistics.median(record[name] for record in warm)
