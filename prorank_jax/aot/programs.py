"""The jitted steps of a config with abstract arguments: shapes, dtypes and shardings, and no array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from prorank_jax.aot.chips import Topology
from prorank_jax.config import RunConfig
from prorank_jax.flops import grpo_step_flops, ranking_step_flops, score_step_flops
from prorank_jax.models.attention import check_implementation
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.lora import split_factors
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import LossOptions, make_losses, parse_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.setup import abstract_state, make_model
from prorank_jax.sharding import batch_sharding, check_batch_size, make_mesh, replicated
from prorank_jax.stage_options import LoraOptions
from prorank_jax.stages import make_warmup_step
from prorank_jax.steps import make_score_step
from prorank_jax.train_state import init_state, pretrained_shardings, train_state_shardings
from prorank_jax.types import Batch, ListBatch, Params, PromptRows, TrainState

# Shapes depend on no token's id, so any three that a vocabulary has will do.
ANY_ANSWERS = AnswerTokens(zero=15, one=16, end=17)
# What the prompts of a list share: a system sentence, an instruction and a query are about as long.
SHARED_TOKENS = 64


@dataclass(frozen=True)
class StepProgram:
    """A jitted step and what to lower it with.

    Attributes:
        step: jitted.
        arguments: of the step, abstract.
        parameters: of the model, low-rank factors included.
        model_flops: of one step over all devices, recomputation left out.
        prompts: of one step over all devices.
        tokens: of those, padding included; what a list shares counts once.
        shape: of the batch, in words.
    """

    step: Any
    arguments: tuple[Any, ...]
    mesh: Mesh
    parameters: int
    model_flops: int
    prompts: int
    tokens: int
    shape: str


def topology_mesh(topology: Topology, config: RunConfig) -> Mesh:
    """The config's mesh over a slice that is not there.

    Raises:
        ValueError: the compiler knows no such slice, the mesh does not fit it, or it lacks the config's
            implementation of attention.
    """
    try:
        described = topologies.get_topology_desc(**topology.description)  # type: ignore[arg-type]
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology={topology.name!r}: {str(error).splitlines()[0]}") from error
    mesh = make_mesh(config.mesh, described.devices)
    check_implementation(config.model.attention, config.model.compute_dtype, mesh)
    return mesh


def build_program(
    config: RunConfig, which: str, shape: ModelConfig, mesh: Mesh, rows: PromptRows | None = None
) -> StepProgram:
    """One of `options.STEPS` for a mesh.

    Args:
        rows: of stage 1's prompts; None: each is padded.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    check_sizes(config, which)
    part = config.train.batch_size // (config.train.accumulation if which != "score" else 1)
    check_batch_size("train.batch_size / train.accumulation", part, mesh)
    model = make_model(config, shape)
    if which == "1":
        return _warmup(config, model, mesh, rows)
    return {"2": _ranking, "score": _scoring}[which](config, model, mesh)


def check_sizes(config: RunConfig, which: str) -> None:
    """Refuses prompts of stage 2 that leave a document no room; needs no device.

    Raises:
        ValueError: prompts no longer than what a list shares.
    """
    if which == "2" and config.data.max_length <= SHARED_TOKENS:
        raise ValueError(
            f"data.max_length={config.data.max_length}: lists are compiled with {SHARED_TOKENS} shared "
            "tokens; give more"
        )


def _array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Any:
    """A `jax.ShapeDtypeStruct`, which stands where an array would."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _state(config: RunConfig, model: Transformer, mesh: Mesh, optimizer: Any) -> TrainState:
    shardings = train_state_shardings(model, optimizer, mesh)

    def start(params: Params) -> TrainState:
        return init_state(params, model, optimizer, shardings, config.train.seed)

    return abstract_state(model, start, shardings)


def _pretrained(model: Transformer, mesh: Mesh) -> Any:
    """The frozen initial policy's parameters."""
    shapes = split_factors(nn.unbox(abstract_params(model)))[1]
    where = pretrained_shardings(model, mesh)
    return jax.tree.map(lambda leaf, to: _array(leaf.shape, leaf.dtype, to), shapes, where)


def _batch(config: RunConfig, mesh: Mesh, in_rows: PromptRows | None = None) -> Batch:
    rows, where = config.train.batch_size, batch_sharding(mesh)
    one = _array((rows,), jnp.int32, where)
    tokens = _array((rows, config.data.max_length), jnp.int32, where)
    return Batch(tokens=tokens, lengths=one, labels=one, examples=one, rows=in_rows)


def _parameters(model: Transformer) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nn.unbox(abstract_params(model))))


def _warmup(
    config: RunConfig, model: Transformer, mesh: Mesh, in_rows: PromptRows | None = None
) -> StepProgram:
    optimizer = make_optimizer(config.optimizer, config.updates)
    schedule = make_schedule(config.optimizer, config.updates)
    step = make_warmup_step(config, model, optimizer, schedule, ANY_ANSWERS, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    uses_reference = config.grpo.kl_coefficient > 0 and not config.lora.rank
    rows, width = config.train.batch_size, config.data.max_length
    shape = f"{rows} prompts x {width} tokens x {config.grpo.group_size} completions"
    tokens = rows * width
    if in_rows is not None:
        shape += f", in rows of {in_rows.tokens} tokens, {in_rows.shared} of them for all"
        tokens = rows // in_rows.prompts * in_rows.tokens
    low_rank = config.lora.rank > 0
    return StepProgram(
        step=step,
        arguments=(
            _state(config, model, mesh, optimizer),
            _pretrained(model, mesh) if uses_reference else None,
            _batch(config, mesh, in_rows),
            _array(key.shape, key.dtype, replicated(mesh)),
        ),
        mesh=mesh,
        parameters=_parameters(model),
        model_flops=grpo_step_flops(model.config, config.grpo, rows, width, in_rows, low_rank=low_rank),
        prompts=rows,
        tokens=tokens,
        shape=shape,
    )


def _lists(config: RunConfig, mesh: Mesh) -> ListBatch:
    lists, where = config.train.batch_size, batch_sharding(mesh)
    documents = config.ranking.documents
    rest = config.data.max_length - SHARED_TOKENS

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return _array((lists, *shape), dtype, where)

    return ListBatch(
        prefix=array(SHARED_TOKENS),
        prefix_lengths=array(),
        tokens=array(documents, rest),
        lengths=array(documents),
        grades=array(documents, dtype=jnp.float32),
        teacher=array(documents, dtype=jnp.float32),
        mask=array(documents, dtype=jnp.bool_),
        in_batch=array(documents, dtype=jnp.bool_),
        examples=array(documents),
    )


def _ranking(config: RunConfig, model: Transformer, mesh: Mesh) -> StepProgram:
    ranking = config.ranking
    optimizer = make_optimizer(config.optimizer, config.updates)
    schedule = make_schedule(config.optimizer, config.updates)
    objective = RankingObjective(
        make_losses(LossOptions(soft_label=ranking.soft_labels, beta=ranking.preference_beta)),
        parse_losses(ranking.losses),
        ranking.kl_coefficient,
        ranking.format_coefficient,
    )
    step = make_ranking_step(
        model, optimizer, schedule, objective, config.train.accumulation, ANY_ANSWERS, mesh
    )
    uses_reference = objective.uses_reference and not config.lora.rank
    batch = _lists(config, mesh)
    lists, documents, rest = batch.tokens.shape
    return StepProgram(
        step=step,
        arguments=(
            _state(config, model, mesh, optimizer),
            _pretrained(model, mesh) if uses_reference else None,
            batch,
        ),
        mesh=mesh,
        parameters=_parameters(model),
        model_flops=ranking_step_flops(
            model.config,
            lists,
            documents,
            SHARED_TOKENS,
            rest,
            low_rank=config.lora.rank > 0,
            uses_reference=objective.uses_reference,
            reads_answer=objective.format_coefficient > 0,
        ),
        prompts=lists * documents,
        tokens=lists * (SHARED_TOKENS + documents * rest),
        shape=f"{lists} lists x {documents} documents, {SHARED_TOKENS} shared + {rest} tokens each",
    )


def _scoring(config: RunConfig, model: Transformer, mesh: Mesh) -> StepProgram:
    merged = model.clone(lora=LoraOptions())
    rows, width = config.train.batch_size, config.data.max_length
    return StepProgram(
        step=make_score_step(merged, ANY_ANSWERS, mesh),
        arguments=(_pretrained(merged, mesh), _batch(config, mesh)),
        mesh=mesh,
        parameters=_parameters(merged),
        model_flops=score_step_flops(model.config, rows, width),
        prompts=rows,
        tokens=rows * width,
        shape=f"{rows} prompts x {width} tokens",
    )
