"""Whose memory is counted: the device's where its backend tells it, else the process's; and too little."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from prorank_jax import device_memory
from prorank_jax.command_line import run_command
from prorank_jax.device_memory import OF_DEVICE, OF_PROCESS, naming_memory, peak_bytes, peak_memory


class Device:
    """Counts its memory as `statistics` say."""

    def __init__(self, statistics: dict | None) -> None:
        self._statistics = statistics

    def memory_stats(self) -> dict | None:
        return self._statistics


def test_a_device_that_counts_is_believed(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"peak_bytes_in_use": 5 << 30})])
    assert peak_memory() == (5 << 30, OF_DEVICE)
    assert peak_bytes() == 5 << 30


@pytest.mark.parametrize("statistics", [None, {}, {"bytes_limit": 1}])
def test_else_it_is_the_process(statistics, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(statistics)])
    taken, whose = peak_memory()
    assert whose == OF_PROCESS
    assert 10 << 20 < taken < 1 << 44


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_a_process_is_counted_in_the_unit_of_its_system(system, unit, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    monkeypatch.setattr(device_memory.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=7 << 20))
    monkeypatch.setattr(device_memory.sys, "platform", system)
    assert peak_memory() == (unit * 7 << 20, OF_PROCESS)


def test_what_finds_no_room_is_one_line_with_the_remedy(capsys):
    def compute() -> None:
        with naming_memory("lower the batch"):
            jax.block_until_ready(jax.jit(lambda: jnp.ones(1 << 43))())

    assert run_command(compute) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: too little memory (RESOURCE_EXHAUSTED: Out of memory allocating 35184372088832"
    )
    assert said.endswith("); lower the batch\n")
    assert said.count("\n") == 1


def test_other_errors_of_a_computation_go_through():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault"),
        naming_memory("lower the batch"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")
