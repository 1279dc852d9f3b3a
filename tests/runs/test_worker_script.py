"""launch/tpu_pod/worker.sh by itself: what it tells of the log of a run that ended."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import requests

from prorank_jax.irds import read_ir_judgements
from prorank_jax.launching import AgreedOutageError
from prorank_jax.models.sources import resolve_source
from prorank_jax.remote_files import with_url_errors
from prorank_jax.storage_faults import OutOfReachError, within_reach
from tests.runs.fake_cloud import REPOSITORY

WORKER = REPOSITORY / "launch" / "tpu_pod" / "worker.sh"
RUN = "20260101T000000Z-1"
BUSY = requests.HTTPError("429 Client Error: Too Many Requests", response=Mock(status_code=429))


def no_bucket() -> None:
    with within_reach("gs://b/x"):
        raise BUSY


def no_collection() -> None:
    with_url_errors("data.source", "gs://b/x", Mock(side_effect=BUSY))


def no_model() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=BUSY))
        resolve_source("org/name")


def no_catalogue() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prorank_jax.irds._open", Mock())
        patch.setattr("prorank_jax.irds._judgements", Mock(side_effect=BUSY))
        read_ir_judgements("beir/scifact/train")


def reached(home: Path, *log: str) -> str:
    """What a worker tells of a life with this log."""
    state = home / "prorank-jax" / "state"
    state.mkdir(parents=True)
    (state / "worker").write_text("1")
    (state / "run").write_text(RUN)
    head = f"=== 2026-01-01T00:00:00Z {RUN}: --stage 1"
    (home / "prorank-jax" / "run.log").write_text("\n".join([head, *log, "=== exit code 1", ""]))
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    told = subprocess.check_output(["bash", WORKER, "reached"], env=environment, text=True)
    return " ".join(told.split())


@pytest.mark.parametrize("reach", [no_bucket, no_collection, no_model, no_catalogue])
def test_an_outage_is_told_of_whatever_is_out_of_reach(reach, tmp_path):
    with pytest.raises(OutOfReachError) as told:
        reach()
    said = str(AgreedOutageError(f"process 3 of 64: {told.value}"))
    log = ("resuming gs://b/x after step 7", f"error: {said}")
    assert reached(tmp_path, *log) == "worker 1: after step 7 out of reach"


def test_a_failure_of_the_program_is_no_outage(tmp_path):
    log = ("resuming gs://b/x after step 7", "step 20/40", "Traceback", "RuntimeError: 429")
    assert reached(tmp_path, *log) == "worker 1: after step 7 step 20/40"
