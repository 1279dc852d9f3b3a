"""What processes do together, `prorank_jax.processes`, without a run: waiting, telling, failing."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax._src import distributed
from jax.experimental import multihost_utils

import prorank_jax.processes
from prorank_jax.processes import gather_texts
from tests.cpu.several import start, wait_for

GATHER_OFTEN = """
import time
from tests.cpu.tiny_run import load_launcher

load_launcher().join_peers()

import jax
from prorank_jax.processes import gather_texts

for call in range(3):
    time.sleep(jax.process_index())
    print(gather_texts(f"{call} of {jax.process_index()}" * 10 ** call) == [
        f"{call} of {process}" * 10 ** call for process in range(2)
    ])
"""


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


@pytest.mark.slow
def test_real_processes_gather_again_and_again():
    ended = wait_for(start([["-c", GATHER_OFTEN]] * 2))
    assert ended.codes == [0, 0], ended.said
    assert all(said.split().count("True") == 3 for said in ended.said), ended.said
