"""A step that the compiler refuses: a report of what is missing, unless it is about something else."""

from __future__ import annotations

import jax
import pytest

from prorank_jax.aot import compile as compiling
from prorank_jax.aot.chips import parse_topology
from prorank_jax.sharding import make_mesh
from tests.cpu.aot.test_flops import SHAPE, config_with

SLICE = parse_topology("v5e:2x4")


def report(monkeypatch: pytest.MonkeyPatch, said: str) -> compiling.StepReport:
    """Of a slice whose compiler, which is not here, says this."""

    def refuse(*_: object) -> None:
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(
        compiling, "topology_mesh", lambda _, config: make_mesh(config.mesh, jax.devices()[:1])
    )
    monkeypatch.setattr(compiling, "compile_program", refuse)
    return compiling.compile_report(config_with(), "1", SLICE, SHAPE)


def test_too_little_memory_is_a_report(monkeypatch):
    found = report(monkeypatch, "RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm. Exceeded hbm capacity")
    assert not found.fits
    assert found.needed == int(20.5 * 2**30)
    assert found.compile_seconds >= 0
    assert (found.memory, found.executed_flops, found.roofline) == (None, None, None)


def test_any_other_fault_is_raised(monkeypatch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault"):
        report(monkeypatch, "INTERNAL: a fault")
