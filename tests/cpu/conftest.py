"""Tests of the package's parts, and of whole commands in this process."""

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
    "test_ranking_step.py",
    "test_steps.py",
    "test_rollouts.py",
    "test_transformer.py",
    "test_reranker.py",
    "test_flops.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    put_first(LONGEST, items)
