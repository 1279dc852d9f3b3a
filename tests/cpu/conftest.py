"""Tiny models take longer to compile than to run, so the compiler may skip its costly passes here."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import jax
import pytest

from tests.cpu.rough_pictures import drawing_roughly
from tests.cpu.shared_programs import sharing_programs

# A file goes to one worker as a whole: the longest begin first, so that none is left at the end.
LONGEST = (
    "test_processes.py",
    "test_mesh_exactness.py",
    "test_readme_commands.py",
    "test_train_stage2.py",
    "test_kill_anywhere.py",
    "test_tpu_pod_end_to_end.py",
    "test_steps.py",
    "test_full_disk.py",
    "test_end_to_end.py",
    "test_elastic.py",
    "test_tpu_pod_train.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by file, the longest first; within a file the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """What is imported stays for good: nobody need look through it for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def shared_programs() -> Iterator[None]:
    """Equal steps of the test's runs are one program; see `shared_programs`."""
    with sharing_programs():
        yield


@pytest.fixture
def rough_pictures() -> Iterator[None]:
    """Of the test's runs; see `drawing_roughly`."""
    with drawing_roughly():
        yield
