"""Whose memory is counted: the device's where its backend tells it, else the process's; and too little."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from prorank_jax import device_memory
from prorank_jax.command_line import run_command
from prorank_jax.device_memory import (
    AT_LEAST,
    AT_MOST,
    OF_DEVICE,
    OF_PROCESS,
    naming_memory,
    peak_bytes,
    peak_memory,
)


class Device:
    """Counts its memory as `statistics` say."""

    def __init__(self, statistics: dict | None, platform: str = "gpu") -> None:
        self._statistics, self.platform = statistics, platform

    def memory_stats(self) -> dict | None:
        return self._statistics


def test_a_device_that_counts_is_believed(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"peak_bytes_in_use": 5 << 30})])
    assert peak_memory() == (5 << 30, OF_DEVICE)
    assert peak_bytes() == 5 << 30


IN_USE, BOTH = {"peak_bytes_in_use": 5 << 30}, {"peak_bytes_in_use": 5 << 30, "peak_bytes_reserved": 6 << 30}


@pytest.mark.parametrize(
    ("platform", "statistics", "told"),
    [
        ("tpu", BOTH, (11 << 30, AT_MOST)),
        ("tpu", BOTH | {"peak_bytes_reserved": 0}, (5 << 30, AT_MOST)),
        ("tpu", IN_USE, (5 << 30, AT_LEAST)),
        ("gpu", BOTH, (5 << 30, OF_DEVICE)),
    ],
)
def test_what_a_tpus_programs_reserve_counts_too(platform, statistics, told, monkeypatch):
    """Their temporaries; a GPU has them in use."""
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(statistics, platform)])
    assert peak_memory() == told
    assert peak_bytes() == told[0]


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
