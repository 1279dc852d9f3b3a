"""A sample of tests/robustness: a run killed at a few random moments ends to the same bits."""

from __future__ import annotations

import pytest

from tests.cpu.killed_runs import kill_many
from tests.cpu.tiny_run import tiny_fields, write_collection, write_model_folder

KILLS = 2


@pytest.mark.slow
def test_killed_a_few_times_a_run_ends_to_the_bit(tmp_path):
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    made = kill_many(lambda folder: tiny_fields(model, collection, folder), tmp_path, KILLS, steps=24, seed=0)
    assert sum(made.values()) == KILLS
