"""What a step that finds no room is told to change."""

from __future__ import annotations

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.config import MeshOptions, RunConfig
from prorank_jax.config_files import load_config
from prorank_jax.memory_remedies import smaller_step
from prorank_jax.sharding import check_batch_size, make_mesh


def said(config: RunConfig, devices: int = 1, **mesh: int) -> str:
    return smaller_step(config, make_mesh(MeshOptions(**mesh), jax.devices()[:devices]))


def test_what_costs_only_time_comes_first():
    config = load_config(None, {"stage": 2, "train.batch_size": 8, "data.max_length": 256})
    assert said(config) == (
        "raise train.accumulation (1) or set model.remat to full (none) in the same command, which costs "
        "time only: the run goes on from its last checkpoint; or in a new output_dir lower data.max_length "
        "(256) or ranking.list_size (8) or what is trained, with lora.rank 16. configs/ has settings for a "
        "CPU, GPUs and TPUs"
    )


def test_what_is_at_its_least_is_not_named():
    smallest = {"train.batch_size": 2, "train.accumulation": 2, "model.remat": "full", "lora.rank": 4}
    assert said(load_config(None, {"stage": 1, "data.max_length": 256, **smallest})) == (
        "in a new output_dir lower data.max_length (256). configs/ has settings for a CPU, GPUs and TPUs"
    )


def would_pass(batch: int, accumulation: int, mesh: jax.sharding.Mesh) -> bool:
    try:
        config = load_config(None, {"train.batch_size": batch, "train.accumulation": accumulation})
        check_batch_size("batch", config.train.batch_size // config.train.accumulation, mesh)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(1, 8, 1), (2, 2, 2), (3, 1, 2), (1, 1, 8)])
@given(st.integers(1, 24), st.integers(1, 24))
def test_more_parts_are_named_where_some_number_of_them_would_be_taken(data, fsdp, tensor, batch, parts):
    devices = data * fsdp * tensor
    mesh = make_mesh(MeshOptions(data, fsdp, tensor), jax.devices()[:devices])
    if not would_pass(2 * batch, parts, mesh):
        return
    config = load_config(None, {"train.batch_size": 2 * batch, "train.accumulation": parts})
    more = any(would_pass(2 * batch, number, mesh) for number in range(parts + 1, 2 * batch + 1))
    assert ("raise train.accumulation" in smaller_step(config, mesh)) == more
