"""One point of a growth curve as a compiled step with random weights and tokens.

Its time depends on neither, but in stage 1 on how far the completions of a group differ (`--temperature`).
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.aot.compile import compile_program
from prorank_jax.aot.programs import SHARED_TOKENS, StepProgram, build_program
from prorank_jax.benchmarks.growth_points import Point, Size
from prorank_jax.config import GrpoOptions, RunConfig
from prorank_jax.config_files import config_from_flat
from prorank_jax.models.attention import check_head_size, check_implementation
from prorank_jax.models.config import ModelConfig
from prorank_jax.prompt_rows import plan_of_one_length
from prorank_jax.sharding import make_mesh
from prorank_jax.types import Batch, ListBatch, PromptRows

_WEIGHT_SCALE = 0.02


@dataclass(frozen=True)
class AnyGroup(GrpoOptions):
    """Options that take a group of one, too: it teaches nothing, but its cost is where the curve starts."""

    def __post_init__(self) -> None:
        """Checks nothing: `Size` did."""


@dataclass(frozen=True)
class MeasuredStep:
    """A compiled step with all its arguments but the first, which is a training state, or weights to score.

    Attributes:
        compiled: as `jax.stages.Compiled`.
        rest: of the arguments.
        trains: whether the first argument is donated and the first result takes its place.
        planned_bytes: arguments and temporaries, as the compiler planned them.
    """

    compiled: Any
    rest: tuple[Any, ...]
    trains: bool
    planned_bytes: int

    def run(self, first: Any) -> tuple[float, Any]:
        """Runs once; the seconds from the call to the last result, and the first argument of the next run."""
        started = time.perf_counter()
        results = jax.block_until_ready(self.compiled(first, *self.rest))
        seconds = time.perf_counter() - started
        return seconds, results[0] if self.trains else first


def config_of(point: Point, options: dict[str, Any]) -> RunConfig:
    """The config of a point's step.

    Args:
        options: dotted fields that all points share.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    size = point.size
    fields = {
        "stage": 1 if point.program == "1" else 2,
        "data.max_length": size.length,
        "train.batch_size": size.batch,
        "ranking.list_size": size.list_size,
        "mesh.data": 1,
    }
    config = config_from_flat(options | fields)
    grpo = dataclasses.asdict(config.grpo) | {"group_size": size.group, "forced_ends": 0}
    return dataclasses.replace(config, grpo=AnyGroup(**grpo))


def build(point: Point, shape: ModelConfig, options: dict[str, Any]) -> StepProgram:
    """A point's step with abstract arguments, on the first device.

    Raises:
        ValueError: sizes that do not fit each other or the model, or attention that the device or the model
            does not have.
    """
    config = config_of(point, options)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    check_implementation(config.model.attention, config.model.compute_dtype, mesh)
    check_head_size(config.model.attention, shape.head_dim)
    rows = _rows_of(point.size) if point.program == "1" else None
    return build_program(config, point.program, shape, mesh, rows)


def _rows_of(size: Size) -> PromptRows | None:
    """The rows that training on one device would put stage 1's prompts in; None: it would pad them."""
    lengths = size.prompt_lengths()
    plan = plan_of_one_length([lengths], size.length, size.shared)
    return None if plan is None else plan.rows_for(lengths, size.length)


def prepare(
    program: StepProgram,
    point: Point,
    shape: ModelConfig,
    compiler_options: dict[str, str] | None = None,
) -> MeasuredStep:
    """Compiles a point's step, with options of XLA's, and makes its batch.

    Raises:
        JaxRuntimeError: it finds no room, compiled or not: whoever asks knows what helps.
    """
    _, compiled, _ = compile_program(program, compiler_options)
    plan = compiled.memory_analysis()
    rest = tuple(_filled(argument, point.size, shape) for argument in program.arguments[1:])
    trains = point.program != "score"
    return MeasuredStep(compiled, rest, trains, plan.argument_size_in_bytes + plan.temp_size_in_bytes)


def filled_state(abstract: Any) -> Any:
    """Random weights, and zeros for whatever an optimizer adds to them."""
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = {getattr(part, "name", getattr(part, "key", None)) for part in path}
        if "opt_state" in names or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        weights = rng.standard_normal(leaf.shape, np.float32) * _WEIGHT_SCALE
        return jax.device_put(weights.astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(fill, abstract)


def _filled(argument: Any, size: Size, shape: ModelConfig) -> Any:
    """A batch of random prompts, in stage 2 as long as they may be, or a random key."""
    rng = np.random.default_rng(1)

    def tokens(like: Any) -> np.ndarray:
        return rng.integers(0, shape.vocab_size, like.shape).astype(np.int32)

    if isinstance(argument, Batch):
        order = np.arange(size.batch, dtype=np.int32)
        return Batch(tokens(argument.tokens), size.prompt_lengths(), order % 2, order, argument.rows)
    if isinstance(argument, ListBatch):
        lists, documents, width = argument.tokens.shape
        each = (lists, documents)
        return ListBatch(
            prefix=tokens(argument.prefix),
            prefix_lengths=np.full(lists, SHARED_TOKENS, np.int32),
            tokens=tokens(argument.tokens),
            lengths=np.full(each, width, np.int32),
            grades=np.broadcast_to(np.arange(documents) == 0, each).astype(np.float32),
            teacher=np.full(each, np.nan, np.float32),
            mask=np.ones(each, bool),
            in_batch=np.zeros(each, bool),
            examples=np.zeros(each, np.int32),
        )
    return None if argument is None else jax.random.key(0)
