"""Stage 1's own jitted steps, compiled for eight TPU v5e chips that are not there; nothing is allocated.

What runs is the compiler: it refuses a program that does not fit, and says what memory one needs. No speed
is measured here, and nothing is known of a TPU that these tests did not see.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from prorank_jax.config import RunConfig
from prorank_jax.config_files import load_config
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.lora import split_factors
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import LossOptions, make_losses, parse_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.rewards import answer_reward
from prorank_jax.sharding import batch_sharding, make_mesh, replicated
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch, TrainState

TOPOLOGY = "v5e:2x4"
CHIP_MEMORY = 16 * 2**30
CONFIGS = Path(__file__).parents[2] / "configs"
STAGE_1, STAGE_2 = CONFIGS / "stage1.yaml", CONFIGS / "stage2.yaml"
CASES: dict[str, dict[str, Any]] = {
    "stage1.yaml": {},
    "data8": {"mesh.fsdp": 1, "train.batch_size": 64},
    "data4-tensor2": {"mesh.fsdp": 1, "mesh.tensor": 2, "train.batch_size": 64},
}
QWEN_ANSWERS = AnswerTokens(zero=15, one=16, end=151645)
QWEN_2_5_500M = ModelConfig(
    family="qwen2",
    vocab_size=151_936,
    dim=896,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    mlp_dim=4_864,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    tied=True,
    max_positions=32_768,
)


class AbstractRun(NamedTuple):
    """What a run compiles its steps for: shapes, dtypes and shardings, and no array."""

    config: RunConfig
    mesh: Mesh
    model: Transformer
    state: TrainState
    batch: Batch
    key: jax.ShapeDtypeStruct


def abstract_array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def run(request: pytest.FixtureRequest) -> AbstractRun:
    return abstract_run(load_config(STAGE_1, request.param))


def abstract_run(config: RunConfig) -> AbstractRun:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    mesh = make_mesh(config.mesh, topology.devices)
    model = Transformer(QWEN_2_5_500M, config.model.compute_dtype, config.model.remat, config.lora)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    shardings = train_state_shardings(model, optimizer, mesh)
    shapes = jax.eval_shape(
        lambda params: init_state(params, model, optimizer, shardings),
        split_factors(nn.unbox(abstract_params(model)))[1],
    )
    prompts, length = config.train.batch_size, config.data.max_length
    rows = batch_sharding(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return AbstractRun(
        config=config,
        mesh=mesh,
        model=model,
        state=jax.tree.map(lambda leaf, to: abstract_array(leaf.shape, leaf.dtype, to), shapes, shardings),
        batch=Batch(
            tokens=abstract_array((prompts, length), jnp.int32, rows),
            lengths=abstract_array((prompts,), jnp.int32, rows),
            labels=abstract_array((prompts,), jnp.int32, rows),
            examples=abstract_array((prompts,), jnp.int32, rows),
        ),
        key=abstract_array(key.shape, key.dtype, replicated(mesh)),
    )


def memory_needed(
    step: Any, *arguments: Any, mesh: Mesh, record_property: Callable[[str, object], None]
) -> int:
    """Compiles a jitted step and returns its bytes on each chip, arguments included.

    A sum that no reuse of a buffer makes smaller, so an upper bound of what the compiler planned.
    """
    started = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # a concrete one would want its devices
        compiled = step.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    record_property("compile_seconds", seconds)
    record_property("bytes_per_chip", needed)
    print(f"{needed / 2**30:.2f} GiB a chip, compiled in {seconds:.0f} s")
    return needed


def test_score_step_fits(run: AbstractRun, record_property):
    step = make_score_step(run.model, QWEN_ANSWERS, run.mesh)
    needed = memory_needed(step, run.state.params, run.batch, mesh=run.mesh, record_property=record_property)
    assert needed < CHIP_MEMORY


def test_grpo_step_fits(run: AbstractRun, record_property):
    options, steps = run.config.grpo, run.config.train.steps
    step = make_grpo_step(
        run.model,
        make_optimizer(run.config.optimizer, steps),
        make_schedule(run.config.optimizer, steps),
        options,
        QWEN_ANSWERS,
        answer_reward(QWEN_ANSWERS, options.format_weight, options.correct_weight),
        run.mesh,
    )
    needed = memory_needed(
        step, run.state, None, run.batch, run.key, mesh=run.mesh, record_property=record_property
    )
    assert needed < CHIP_MEMORY


def abstract_lists(run: AbstractRun) -> ListBatch:
    """Lists of the config's size: 64 shared tokens, and the rest of its longest prompt for each document."""
    lists, documents = run.config.train.batch_size, run.config.ranking.list_size
    prefix, rest = 64, run.config.data.max_length - 64
    rows = batch_sharding(run.mesh)

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return abstract_array((lists, *shape), dtype, rows)

    return ListBatch(
        prefix=array(prefix),
        prefix_lengths=array(),
        tokens=array(documents, rest),
        lengths=array(documents),
        grades=array(documents, dtype=jnp.float32),
        teacher=array(documents, dtype=jnp.float32),
        mask=array(documents, dtype=jnp.bool_),
        in_batch=array(documents, dtype=jnp.bool_),
        examples=array(documents),
    )


STAGE_2_CASES: dict[str, dict[str, Any]] = {
    "stage2.yaml": {},
    "low-rank, accumulated": {"lora.rank": 16, "train.batch_size": 64, "train.accumulation": 2},
}


@pytest.mark.parametrize("changes", STAGE_2_CASES.values(), ids=STAGE_2_CASES)
def test_ranking_step_fits(changes: dict[str, Any], record_property):
    run = abstract_run(load_config(STAGE_2, changes))
    config = run.config
    weights = parse_losses(config.ranking.losses)
    objective = RankingObjective(make_losses(LossOptions()), weights, config.ranking.kl_coefficient)
    step = make_ranking_step(
        run.model,
        make_optimizer(config.optimizer, config.train.steps),
        make_schedule(config.optimizer, config.train.steps),
        objective,
        config.train.accumulation,
        QWEN_ANSWERS,
        run.mesh,
    )
    reference = None if config.lora.rank else run.state.params
    needed = memory_needed(
        step, run.state, reference, abstract_lists(run), mesh=run.mesh, record_property=record_property
    )
    assert needed < CHIP_MEMORY
