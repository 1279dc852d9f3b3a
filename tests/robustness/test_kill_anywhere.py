"""Fifty kills of each stage, and with low-rank factors; `make test-robustness`. A sample is in tests/runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cpu.tiny_run import tiny_fields, write_collection, write_model_folder
from tests.runs.killed_runs import kill_many

KILLS = 50


LOW_RANK = {"lora.rank": 2, "lora.alpha": 4.0}  # whose frozen weights lie beside the checkpoints


@pytest.mark.parametrize(("stage", "more"), [(1, {}), (2, {}), (2, LOW_RANK)], ids=["1", "2", "2 low-rank"])
def test_killed_anywhere_a_run_ends_to_the_bit(tmp_path, stage, more, capsys):
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")

    def fields(folder: Path):
        own = tiny_fields(model, collection, folder) | {"stage": stage}
        if stage == 2:
            del own["data.buckets"]
            own |= {"ranking.list_size": 4, "ranking.kl_coefficient": 0.1}
        return own | more

    started = time.monotonic()
    made = kill_many(fields, tmp_path, KILLS, steps=24, seed=stage)
    with capsys.disabled():
        seconds = time.monotonic() - started
        print(f"\nstage {stage} {more or ''}: killed {dict(made)}, no divergence, {seconds:.0f} s")
