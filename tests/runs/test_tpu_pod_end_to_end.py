"""launch/tpu_pod.sh and the real trainer: two workers over jax.distributed, one is killed."""

from __future__ import annotations

import json
import os
import re

import pytest

from prorank_jax.metrics_log import METRICS_FILE, read_lines
from prorank_jax.run_folder import REPORT_FILE
from tests.cpu.tiny_run import command_line, tiny_fields, write_collection, write_model_folder
from tests.runs.fake_cloud import FakeCloud, free_port, wait_until

STEPS = 8
WORKER_SCRIPT = "prorank-jax/checkout/launch/tpu_pod/worker.sh"


@pytest.mark.slow
def test_from_create_through_a_killed_worker_to_delete(tmp_path):
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PRORANK_COORDINATOR_PORT": str(free_port()),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        # Shared by the workers and by both lives of the run, but not with other tests: one worker is killed.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    cloud = FakeCloud(tmp_path, environment)
    cloud.make_checkout(trainer=None)
    output_dir = cloud.shared / "run"
    fields = tiny_fields(
        write_model_folder(cloud.shared / "model"), write_collection(cloud.shared / "collection"), output_dir
    )
    fields |= {"train.steps": STEPS, "train.sample_every": 0, "checkpoint.every": 1, "probe.every": STEPS}
    fields["data.buckets"] = (208,)  # one program: each of the four processes has to trace it
    arguments = ["--", *command_line(fields)]
    try:
        cloud.do("create")
        wait_until(lambda: "READY" in cloud.do("status"))
        cloud.do("setup")
        cloud.do("run", *arguments)
        wait_until(lambda: (output_dir / "checkpoints" / "2").exists())
        cloud.kill(1)
        done = cloud.try_to("train", "--poll", "1", "--stop-seconds", "3", *arguments, seconds=400)
        log = cloud.do("logs", "--worker", "0", "--lines", "1000")
        assert done.returncode == 0, done.stdout + done.stderr + log
        states = cloud.states()
        reached = cloud.do("ssh", "--worker", "0", "--", "bash", WORKER_SCRIPT, "reached")
    finally:
        cloud.close()
    assert states == ["worker 0: exited (0)", "worker 1: exited (0)"]
    # A long path is wrapped wherever the line ends.
    resumed = re.findall(r"resuming.*?after\s+step\s+(\d+)", log.replace("[worker 0] ", ""), re.DOTALL)
    assert len(resumed) == 1
    assert 2 <= int(resumed[0]) < STEPS
    # What `train` tells two failures at the same place by.
    assert reached == f"worker 0: after step {resumed[0]} step {STEPS}/{STEPS} \n"
    assert [record["step"] for record in read_lines(output_dir / METRICS_FILE)] == list(range(1, STEPS + 1))
    assert json.loads((output_dir / REPORT_FILE).read_text())["devices"] == "2 x cpu"
    cloud.do("delete")
    assert not cloud.home(0).exists()
    assert cloud.do("status") == "prorank: absent\n"
