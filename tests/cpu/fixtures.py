"""What tests with tiny models share: they take longer to compile than to run, so the compiler may hurry."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import jax
import pytest

from tests.cpu.rough_pictures import drawing_roughly
from tests.cpu.shared_programs import sharing_programs


def put_first(names: Sequence[str], items: list[pytest.Item]) -> None:
    """Sorts by file, these first; within a file the order stays.

    A file goes to one worker as a whole: the longest begin first, so that none is left at the end.
    """
    place = {name: number for number, name in enumerate(names)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """What is imported stays for good: nobody need look through it for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def compile_quickly() -> Iterator[None]:
    """The compiler skips its costly passes."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def shared_programs() -> Iterator[None]:
    """Equal steps of the test's runs are one program; see `sharing_programs`."""
    with sharing_programs():
        yield


@pytest.fixture
def rough_pictures() -> Iterator[None]:
    """Of the test's runs; see `drawing_roughly`."""
    with drawing_roughly():
        yield
