"""What a step that finds no room is told to change."""

from __future__ import annotations

from prorank_jax.config_files import load_config
from prorank_jax.memory_remedies import smaller_step


def test_what_costs_only_time_comes_first():
    config = load_config(None, {"stage": 2, "train.batch_size": 8, "data.max_length": 256})
    assert smaller_step(config) == (
        "raise train.accumulation (1) or set model.remat to full (none) in the same command, which costs "
        "time only: the run goes on from its last checkpoint; or in a new output_dir lower data.max_length "
        "(256) or ranking.list_size (8) or what is trained, with lora.rank 16. configs/ has settings for a "
        "CPU, GPUs and TPUs"
    )


def test_what_is_at_its_least_is_not_named():
    smallest = {"train.batch_size": 2, "train.accumulation": 2, "model.remat": "full", "lora.rank": 4}
    assert smaller_step(load_config(None, {"stage": 1, "data.max_length": 256, **smallest})) == (
        "in a new output_dir lower data.max_length (256). configs/ has settings for a CPU, GPUs and TPUs"
    )
