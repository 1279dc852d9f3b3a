"""Scoring and a training step of each stage on a GPU: against the CPU, their memory, and what is compiled."""

from __future__ import annotations

import jax
import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.models.plain import MOST_CAUSAL_BLOCKS
from prorank_jax.sharding import make_mesh, put_batch
from prorank_jax.steps import make_score_step
from tests.device_steps import (
    ANSWERS,
    SHAPE,
    check_ranking,
    check_scores,
    check_training_step,
    check_warmup,
    model_with,
    prompts,
    random_params,
)


def gpu():
    return jax.devices("gpu")[0]


def test_scores_are_those_of_float32_on_the_host():
    check_scores(gpu(), "cudnn")


def test_the_warmup_gives_the_numbers_of_float32_on_the_host():
    check_warmup(gpu(), "cudnn", prompts())


def test_ranking_gives_the_numbers_of_float32_on_the_host():
    check_ranking(gpu(), "cudnn")


@pytest.mark.parametrize("which", ["1", "2"])
def test_a_training_step_is_finite_and_compiled_once(which):
    check_training_step(gpu(), "cudnn", which)


def test_cudnn_needs_less_memory_than_plain_attentions_logits():
    """The plan of the compiler for scoring long rows, and what the device really held.

    Plain attention computes a block of queries at a time over all keys before them.
    """
    mesh = make_mesh(MeshOptions(), [gpu()])
    batch = prompts(4, 2048)

    def compiled(attention: str):
        model = model_with(attention, "bfloat16", "none")
        step = make_score_step(model, ANSWERS, mesh)
        params = jax.device_put(random_params(model), gpu())
        with jax.set_mesh(mesh):
            return step.lower(params, put_batch(batch, mesh)).compile(), params

    (fused, params), (plain, _) = compiled("cudnn"), compiled("xla")
    logits = 4 * SHAPE.heads * (2048 // MOST_CAUSAL_BLOCKS) * 2048 * 4
    saved = plain.memory_analysis().temp_size_in_bytes - fused.memory_analysis().temp_size_in_bytes
    assert saved >= logits
    with jax.set_mesh(mesh):
        fused(params, put_batch(batch, mesh)).block_until_ready()
    statistics = gpu().memory_stats()
    assert statistics is not None
    assert 0 < statistics["peak_bytes_in_use"] < statistics["bytes_limit"]
