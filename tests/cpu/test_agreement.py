"""What processes do together, `prorank_jax.processes`, without a run: waiting, telling, failing."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import distributed
from jax.experimental import multihost_utils

import prorank_jax.processes
from prorank_jax.command_line import run_command
from prorank_jax.config import RunConfig
from prorank_jax.processes import check_same_job, gather_texts, succeed_together
from prorank_jax.storage_faults import OutOfReachError, UnfetchedError


class Barriers:
    """Stands in for the client of jax's coordination service."""

    def __init__(self) -> None:
        self.waited: list[tuple[str, int]] = []

    def wait_at_barrier(self, key: str, timeout_ms: int, **_: Any) -> None:
        self.waited.append((key, timeout_ms))


@pytest.fixture
def barriers(monkeypatch) -> Barriers:
    """Of the first of two processes, whose other says the same; a collective that waits is a failure."""

    def no_collective(name: str) -> None:
        pytest.fail(f"{name} waits on the devices")

    jax.devices()  # the backend would ask the client for its peers
    client = Barriers()
    monkeypatch.setattr(distributed.global_state, "client", client)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", no_collective)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda mine: np.stack([mine, mine]))
    return client


def test_processes_wait_two_hours_in_the_coordination_service(barriers):
    for text in ("first", "", "third"):
        assert gather_texts(text) == [text, text]
    keys, patience = zip(*barriers.waited, strict=True)
    assert set(patience) == {prorank_jax.processes.PATIENCE_SECONDS * 1000} == {7_200_000}
    assert len(set(keys)) == 3  # the service refuses a barrier that was passed


@dataclass
class Other:
    """The other of two processes: what it says when this one speaks."""

    says: str = ""

    def gather(self, text: str) -> list[str]:
        return [text, self.says]


@pytest.fixture
def other(monkeypatch) -> Other:
    one = Other()
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(prorank_jax.processes, "gather_texts", one.gather)
    return one


def end_together(error: Exception | None) -> int:
    def work() -> None:
        with succeed_together():
            if error is not None:
                raise error

    return run_command(work)


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("fault", [TypeError("no number"), ModuleNotFoundError("no module"), KeyError("x")])
def test_a_fault_of_the_program_shows_its_traceback_where_it_happened(fault, capsys):
    assert end_together(fault) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert f"{type(fault).__name__}: {fault}" in said
    assert "in work" in said


def test_a_fault_elsewhere_is_one_line_and_the_same_exit_code(other, capsys):
    other.says = json.dumps(["fault", "TypeError: no number"])
    assert end_together(None) == 1
    assert capsys.readouterr().err == "error: process 1 of 2: TypeError: no number\n"


def test_a_fault_outweighs_bad_input(other, capsys):
    other.says = json.dumps(["fault", "TypeError: no number"])
    assert end_together(ValueError("steps=0")) == 1
    assert "process 1 of 2: TypeError: no number" in capsys.readouterr().err


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("steps=0"), 2, "steps=0"),
        (ValueError(), 2, "ValueError: "),
        (OutOfReachError("no answer"), 1, "no answer"),
        (UnfetchedError("no hub"), 1, "no hub"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "/x: Permission denied; see whose it is",
        ),
    ],
)
def test_the_rest_ends_as_it_does_in_a_process_alone(error, code, said, capsys):
    assert end_together(error) == code
    told = capsys.readouterr().err
    assert told.startswith(f"error: process 0 of 2: {said}".rstrip())
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "act",
    [
        lambda: gather_texts(""),
        lambda: end_together(None),
        lambda: check_same_job(RunConfig()),
    ],
)
def test_processes_that_have_not_met_are_told_how_to(act, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert run_command(act) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: jax sees 4 processes, which have not met")
    assert all(
        part in said
        for part in (
            "JAX_COORDINATOR_ADDRESS=",
            "JAX_NUM_PROCESSES=4",
            "JAX_PROCESS_ID",
            "launch/tpu_pod.sh",
            "TPU_VISIBLE_CHIPS=0",
        )
    )
