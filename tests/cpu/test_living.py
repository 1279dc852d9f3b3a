"""A process is dead only where that is certain: its number is of this machine, and nobody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prorank_jax import living
from prorank_jax.living import is_dead_here, this_process

DEAD = 2**22 + 1  # above the largest number of a process
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/ns/pid").is_symlink(), reason="no names of machines here"
)


@needs_linux
def test_who_lives_is_told_from_who_does_not():
    assert not is_dead_here(this_process())
    assert not is_dead_here(this_process() | {"pid": os.getppid()})
    assert is_dead_here(this_process() | {"pid": DEAD})


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "elsewhere"}, {"boot": "0"}, {"pid_namespace": "pid:[1]"}, {"boot": None}, {"pid": "7"}],
    ids=repr,
)
def test_a_number_of_other_processes_tells_nothing(elsewhere):
    assert not is_dead_here(this_process() | {"pid": DEAD} | elsewhere)
    assert not is_dead_here({"pid": DEAD})


def test_a_machine_without_a_name_knows_nobody_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(living, "_BOOT_FILE", tmp_path / "none")
    assert not is_dead_here(this_process() | {"pid": DEAD})
