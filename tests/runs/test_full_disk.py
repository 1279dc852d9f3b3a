"""A sample of tests/robustness/test_full_disk.py: runs that meet a full disk, and one that is read-only."""

from __future__ import annotations

import pytest

from tests.runs.small_disk import run_trials


@pytest.mark.slow
def test_a_run_that_met_a_full_disk_goes_on_to_the_bit(tmp_path):
    # In the data set, and in the midst of a checkpoint.
    found = run_trials("train", tmp_path, [200, 600])
    assert sum(found["full at"].values()) == 2
    assert "nowhere" not in found["full at"], found


@pytest.mark.slow
def test_a_read_only_disk_is_one_sentence_and_its_models_can_be_used(tmp_path):
    assert run_trials("read_only", tmp_path, [])["refused"] == 4
