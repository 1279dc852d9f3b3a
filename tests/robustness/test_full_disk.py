"""Disks that are full at many different moments; `make test-robustness`. A sample is in tests/runs."""

from __future__ import annotations

import time

from tests.runs.small_disk import run_trials

# KiB that are free: from too few for the data set to enough for the whole run; a checkpoint takes 270.
TRAINING = (*range(90, 400, 31), *(kib for base in range(400, 1300, 130) for kib in (base + 900, base)))
EXPORT = range(4, 400, 12)


def test_a_run_goes_on_to_the_bit_wherever_the_disk_was_full(tmp_path, capsys):
    started = time.monotonic()
    found = run_trials("train", tmp_path, TRAINING)
    assert sum(found["full at"].values()) == len(TRAINING)
    with capsys.disabled():
        print(f"\n{len(TRAINING)} runs: {found}, no divergence, {time.monotonic() - started:.0f} s")


def test_an_export_is_whole_or_not_there(tmp_path, capsys):
    started = time.monotonic()
    found = run_trials("export", tmp_path, EXPORT)
    assert found["full"] > 5
    with capsys.disabled():
        print(f"\n{len(EXPORT)} exports: {found}, {time.monotonic() - started:.0f} s")
