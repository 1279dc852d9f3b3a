"""The peer's micro-batch is found before anything is compared."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from prorank_jax.benchmarks.command import tune_peer
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.storage_faults import TooLittleMemoryError
from tests.cpu.benchmarks.stand_ins import PATIENCE, diary, stand_in_command

SECONDS = {"8": 3.0, "16": 1.0, "32": 2.0}


def _tune(folder, **script):
    """What tuning gives, the settings after it, and what the console said."""
    options, settings, said = BenchmarkOptions(peer="trl", timeout=PATIENCE), {"peer_batch": 8}, io.StringIO()
    alone = stand_in_command("trl", folder, seconds_of_batch=SECONDS, **script)
    console = Console(file=said, width=200)
    return tune_peer(options, settings, (8, 16, 32), alone, folder, console), settings, said.getvalue()


def test_the_peer_is_measured_with_its_fastest_micro_batch(tmp_path):
    tuned, settings, _ = _tune(tmp_path)
    assert tuned == {8: 3.0, 16: 1.0, 32: 2.0}
    assert settings == json.loads((tmp_path / "work.json").read_text()) == {"peer_batch": 16}
    assert diary(tmp_path) == ["trl load", "trl prepare", "trl round", "trl round"] * 3


@pytest.mark.parametrize("fault", ["is killed", "finds no room"])
def test_a_micro_batch_without_room_is_left_out_with_a_word(fault, tmp_path):
    tuned, settings, said = _tune(tmp_path, fault_of_batch={"16": fault})
    assert tuned == {8: 3.0, 32: 2.0}
    assert settings == json.loads((tmp_path / "work.json").read_text()) == {"peer_batch": 32}
    assert "trl: micro-batch 16, left out, it finds no room" in said


def test_a_peer_that_finds_no_room_at_all_is_an_error(tmp_path):
    with pytest.raises(TooLittleMemoryError, match=r"peer_batch=\[8, 16, 32\]: .* give smaller ones"):
        _tune(tmp_path, fault_of_batch=dict.fromkeys(SECONDS, "finds no room"))


def test_a_micro_batch_that_fails_otherwise_ends_the_benchmark(tmp_path):
    with pytest.raises(ValueError, match="ended with exit code 7"):
        _tune(tmp_path, fault_of_batch={"16": "dies"})


def test_a_peer_that_computes_in_another_dtype_is_not_tuned(tmp_path):
    with pytest.raises(ValueError, match="trl computes in bfloat16 here"):
        _tune(tmp_path, dtype="bfloat16")
    assert diary(tmp_path) == ["trl load"]
