"""A step that takes more memory than this machine has free is told once, before it runs."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from prorank_jax import step_room
from prorank_jax.step_room import StepRoom

GIB = 1 << 30
DEVICES = jax.local_device_count()


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """The arguments of each step that was looked at; 20 GiB are free."""
    monkeypatch.setattr(step_room, "free_memory", lambda: 20 * GIB)
    return []


def room_for(taken: float, asked: list[tuple]) -> StepRoom:
    """Of a step that takes so many bytes on all devices."""

    def temporary_bytes(*arguments: object) -> int:
        asked.append(arguments)
        return int(taken / DEVICES)

    return StepRoom(temporary_bytes, "set model.remat to full (none)")


def test_a_step_without_room_is_told_once(asked, caplog):
    room = room_for(21 * GIB, asked)
    with caplog.at_level(logging.WARNING):
        room.look_at({"state": np.zeros(3)}, None, np.zeros((2, 4)))
        room.look_at({"state": np.zeros(3)}, None, np.zeros((2, 8)))
    (record,) = caplog.records
    told = record.getMessage()
    assert "takes 21.0 GiB beside what is held already, and 20.0 GiB are free" in told
    assert told.endswith("free some memory, or set model.remat to full (none)")


def test_a_step_with_room_is_not(asked, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        room_for(19 * GIB, asked).look_at(np.zeros(2))
        monkeypatch.setattr(step_room, "free_memory", lambda: None)  # a system that does not say
        room_for(21 * GIB, asked).look_at(np.zeros(2))
    assert not caplog.records


def test_each_shape_of_a_batch_is_looked_at_once(asked):
    room = room_for(GIB, asked)
    for width in (4, 8, 4, 4, 8):
        room.look_at(None, np.zeros((2, width)))
    assert [batch.shape for _, batch in asked] == [(2, 4), (2, 8)]


def test_an_accelerator_refuses_by_itself(asked, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    room_for(21 * GIB, asked).look_at(np.zeros(2))
    assert asked == []
