"""Whose memory is counted: the device's where its backend tells it, else the process's."""

from __future__ import annotations

import jax
import pytest

from prorank_jax.device_memory import OF_DEVICE, OF_PROCESS, peak_bytes, peak_memory


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
