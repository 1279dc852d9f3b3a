"""Steps with splash attention, compiled for eight TPU v5e chips that are not there.

What runs is the compiler, on layers of Qwen2.5-0.5B's shape: it refuses a kernel or a split that cannot
work, and says what memory a program needs. Layers are scanned, so that two stand for any number. Whole steps
with it, stage 2's shared prefix among them, are in test_compile.py.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from prorank_jax.aot.hlo import parse_program
from prorank_jax.aot.traffic import program_traffic
from prorank_jax.config import GrpoOptions, MeshOptions, OptimizerOptions
from prorank_jax.continuations import MOST_DISTINCT
from prorank_jax.flops import grpo_step_flops, ranking_step_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import LossOptions, make_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.rewards import answer_reward
from prorank_jax.sharding import batch_sharding, make_mesh, replicated
from prorank_jax.steps import make_grpo_step, make_packed_score_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch, PackedBatch, PromptRows
from tests.tpu.effort import LEAST_EFFORT

ROWS, WIDTH, SHARED = 64, 512, 64
ANSWERS = AnswerTokens(zero=15, one=16, end=151645)
SHAPE = ModelConfig.from_hf(
    {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 896,
        "num_hidden_layers": 2,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4_864,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    }
)
FSDP, TENSOR = MeshOptions(data=1, fsdp=8), MeshOptions(data=2, fsdp=2, tensor=2)


def mesh_of(options: MeshOptions) -> Mesh:
    return make_mesh(options, topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices)


def compiled(step: Any, mesh: Mesh, *arguments: Any, options: dict[str, Any] | None = None) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return step.lower(*arguments).compile(options)


def kernels_in(program: Any) -> int:
    return program.as_text().count('custom_call_target="tpu_custom_call"')


def abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), tree, shardings
    )


def abstract_state(model: Transformer, optimizer: Any, mesh: Mesh) -> Any:
    shardings = train_state_shardings(model, optimizer, mesh)
    params = nn.unbox(abstract_params(model))
    return abstract(
        jax.eval_shape(lambda params: init_state(params, model, optimizer, shardings), params), shardings
    )


def on_rows(mesh: Mesh, rows: int, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=batch_sharding(mesh))


def prompts(mesh: Mesh, rows: int, width: int) -> Batch:
    return Batch(on_rows(mesh, rows, width), *(on_rows(mesh, rows) for _ in range(3)))


def in_rows(batch: Batch, prompts: int, tokens: int) -> Batch:
    return dataclasses.replace(batch, rows=PromptRows(prompts, SHARED // 2, tokens))


def test_stage_1_compiles_with_heads_over_tensor_and_prompts_in_rows():
    mesh, model = mesh_of(TENSOR), Transformer(SHAPE, "bfloat16", "gate", attention="splash")
    settings = OptimizerOptions()
    grpo = GrpoOptions(group_size=MOST_DISTINCT)  # more compile a choice too, as in test_compile.py
    optimizer = make_optimizer(settings, 100)
    reward = answer_reward(ANSWERS, grpo.format_weight, grpo.correct_weight)
    step = make_grpo_step(model, optimizer, make_schedule(settings, 100), grpo, ANSWERS, reward, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
    batch = in_rows(prompts(mesh, ROWS, WIDTH), ROWS // 4, ROWS // 4 * WIDTH // 2)  # half is padding
    state = abstract_state(model, optimizer, mesh)
    program = compiled(step, mesh, state, None, batch, key, options=LEAST_EFFORT)
    flops = program.cost_analysis()["flops"]
    padded = grpo_step_flops(SHAPE, grpo, ROWS, WIDTH) / mesh.size
    print(f"{flops:.3g} FLOPs a chip; padded, without what is computed again, at least {padded:.3g}")
    assert kernels_in(program) == 2  # forward, and one fused backward: nothing runs twice
    assert flops < 0.7 * padded


def packed(mesh: Mesh, rows: int, tokens: int, segments: int, width: int, prefix_width: int) -> PackedBatch:
    of_tokens = [on_rows(mesh, rows, tokens) for _ in range(2)]
    of_segments = [on_rows(mesh, rows, segments) for _ in range(4)]
    return PackedBatch(*of_tokens, *of_segments, width=width, prefix_width=prefix_width)


def scoring_program(
    make_step: Any, attention: str, mesh: Mesh, batch: Any, shape: ModelConfig = SHAPE
) -> Any:
    model = Transformer(shape, "bfloat16", attention=attention)
    params = abstract_state(model, make_optimizer(OptimizerOptions(), 100), mesh).params
    return compiled(make_step(model, ANSWERS, mesh), mesh, params, batch)


@cache  # one program serves two tests
def score_program(attention: str, rows: int, width: int, shape: ModelConfig = SHAPE) -> Any:
    mesh = mesh_of(FSDP)
    return scoring_program(make_score_step, attention, mesh, prompts(mesh, rows, width), shape)


def test_scoring_keeps_no_whole_logits_with_either_attention():
    programs = {attention: score_program(attention, 256, WIDTH) for attention in ("xla", "splash")}
    needed = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    print({name: f"{temporary / 2**30:.2f} GiB of temporaries a chip" for name, temporary in needed.items()})
    assert {name: kernels_in(program) for name, program in programs.items()} == {"xla": 0, "splash": 1}
    whole_logits = 4 * 256 * SHAPE.heads * WIDTH**2 // mesh_of(FSDP).size  # float32, of one layer on a chip
    assert max(needed.values()) < whole_logits


def test_heads_of_128_and_odd_lengths_compile():
    shape = dataclasses.replace(SHAPE, head_dim=128)
    assert kernels_in(score_program("splash", 64, 1_000, shape)) == 1


def test_packed_rows_move_no_more_between_chips_than_padded_ones():
    """Of as many tokens: to take prompts out of their rows and put them back is a chip's own affair."""
    mesh, rows = mesh_of(FSDP), 256 // mesh_of(FSDP).size
    batch = packed(mesh, mesh.size, tokens=rows * WIDTH, segments=rows, width=WIDTH, prefix_width=128)
    programs = {
        "packed": scoring_program(make_packed_score_step, "splash", mesh, batch),
        "padded": score_program("splash", 256, WIDTH),
    }
    traffic = {
        name: program_traffic(parse_program(program.as_text()), mesh.size)
        for name, program in programs.items()
    }
    needed = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    for name, moved in traffic.items():
        print(f"{name}: {moved.hbm / 1e9:.2f} GB of memory traffic, {needed[name] / 2**30:.2f} GiB temporary")
    assert kernels_in(programs["packed"]) == 1
    assert traffic["packed"].sent == pytest.approx(traffic["padded"].sent, rel=1e-3)
    assert traffic["packed"].hbm < 1.3 * traffic["padded"].hbm
    assert needed["packed"] < 1.1 * needed["padded"]


def lists(mesh: Mesh, count: int, documents: int, row_tokens: int) -> ListBatch:
    def of_documents(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return on_rows(mesh, count, documents, *shape, dtype=dtype)

    return ListBatch(
        prefix=on_rows(mesh, count, SHARED),
        prefix_lengths=on_rows(mesh, count),
        tokens=of_documents(WIDTH - SHARED),
        lengths=of_documents(),
        grades=of_documents(dtype=jnp.float32),
        teacher=of_documents(dtype=jnp.float32),
        mask=of_documents(dtype=jnp.bool_),
        in_batch=of_documents(dtype=jnp.bool_),
        examples=of_documents(),
        row_tokens=row_tokens,
    )


def test_lists_that_are_half_padding_train_packed_with_the_work_of_the_other_half():
    mesh, model = mesh_of(TENSOR), Transformer(SHAPE, "bfloat16", "gate", attention="splash")
    settings, count, documents, rest = OptimizerOptions(), 32, 16, WIDTH - SHARED
    optimizer = make_optimizer(settings, 100)
    goal = RankingObjective(make_losses(LossOptions()), {"listwise": 1.0}, format_coefficient=0.1)
    step = make_ranking_step(model, optimizer, make_schedule(settings, 100), goal, 1, ANSWERS, mesh)
    batch = lists(mesh, count, documents, documents * rest // 2)
    state = abstract_state(model, optimizer, mesh)
    program = compiled(step, mesh, state, None, batch, options=LEAST_EFFORT)
    flops = program.cost_analysis()["flops"]
    padded = ranking_step_flops(SHAPE, count, documents, SHARED, rest, reads_answer=True) / mesh.size
    print(f"{flops:.3g} FLOPs a chip; padded, without what is computed again, at least {padded:.3g}")
    assert kernels_in(program) == 2  # forward, and one fused backward
    assert flops < 0.75 * padded  # some of the forward pass is computed again
