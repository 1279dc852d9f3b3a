"""Whole runs: several processes, meshes, pods, kills, full disks, load, and every command of the pages.

They take longer than tests/cpu, so they have a command of their own: `make test-runs`.
"""

from __future__ import annotations

import pytest

from tests.cpu.fixtures import (  # noqa: F401
    compile_quickly,
    put_first,
    pytest_collection_finish,
    rough_pictures,
    shared_programs,
)

LONGEST = (
    "test_processes.py",
    "test_mesh_exactness.py",
    "test_tpu_pod_train.py",
    "test_readme_commands.py",
    "test_train_stage2.py",
    "test_elastic.py",
    "test_kill_anywhere.py",
    "test_full_disk.py",
    "test_train.py",
    "test_reproduce.py",
    "test_tpu_pod_end_to_end.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    put_first(LONGEST, items)
