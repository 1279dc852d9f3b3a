"""A sample of tests/robustness: a run killed at a few random moments ends to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cpu.tiny_run import tiny_fields, write_collection, write_model_folder
from tests.runs.killed_runs import kill_many

KILLS = 2
STEPS = 12
SEED = 1  # the first kill comes in a step, the second while a checkpoint is written


@pytest.mark.slow
def test_killed_a_few_times_a_run_ends_to_the_bit(tmp_path):
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")

    def fields(folder: Path):
        one_program = {"data.buckets": (208,)}  # for each of the four processes has to trace it
        return tiny_fields(model, collection, folder) | one_program | {"train.steps": STEPS}

    made = kill_many(fields, tmp_path, KILLS, STEPS, SEED)
    assert made == {"step": 1, "checkpoint": 1}
