"""Builds the parts of a run from its config: prompts, data, mesh, model, optimizer, jitted steps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from rich.console import Console

from prorank_jax.config import RunConfig
from prorank_jax.data import ExampleSet
from prorank_jax.held_out import HeldOut, choose_held_out
from prorank_jax.model_prompt import own_settings
from prorank_jax.models.attention import check_head_size, check_implementation
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.lora import split_factors
from prorank_jax.models.tokenizer import save_tokenizer
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.pretrained import Pretrained, check_tokenizer, open_pretrained
from prorank_jax.probe import ProbeStep
from prorank_jax.processes import leads, succeed_together
from prorank_jax.prompts import PromptRenderer, make_renderer
from prorank_jax.ranking_objective import check_scores
from prorank_jax.run_examples import check_sources, open_examples
from prorank_jax.run_folder import DATA_FOLDER, MODEL_CONFIG_FILE, TOKENIZER_FOLDER, write_json
from prorank_jax.run_inputs import fingerprint_inputs
from prorank_jax.run_place import check_place
from prorank_jax.sharding import check_batch_size, make_mesh
from prorank_jax.stages import Parts, Stage, make_stage, stage_buckets
from prorank_jax.steps import make_probe_step
from prorank_jax.train_state import init_state, pretrained_shardings, train_state_shardings
from prorank_jax.types import Params, TrainState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The parts of a run; nothing here changes while it trains.

    Attributes:
        stage: its batches and its jitted step.
        examples: what it trains on.
        held_out: the prompts of the probe.
        inputs: fingerprints of what it reads; see `run_inputs`.
        load_initial_params: reads the pretrained parameters onto the mesh.
        init_state: the state of step 0 around such parameters.
        abstract_state: shapes, dtypes and shardings of a state, to restore one into.
    """

    config: RunConfig
    model_config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    renderer: PromptRenderer
    mesh: jax.sharding.Mesh
    stage: Stage
    examples: ExampleSet
    held_out: HeldOut
    inputs: dict[str, str]
    probe_step: ProbeStep
    load_initial_params: Callable[[], Params]
    init_state: Callable[[Params], TrainState]
    abstract_state: TrainState

    def save_descriptions(self, output_dir: Path) -> None:
        """Writes the tokenizer and the architecture, so that the folder can be loaded as a model."""
        save_tokenizer(self.tokenizer, output_dir / TOKENIZER_FOLDER)
        write_json(output_dir / MODEL_CONFIG_FILE, self.model_config.to_hf())


def prepare_run(
    config: RunConfig, console: Console, folder: Path | None = None, is_leaders: bool = True
) -> Run:
    """Loads everything but the weights, which are only checked; examples are built at the first call.

    With several processes, all call it, and all fail if one does.

    Args:
        folder: of the run on this machine; None: `output_dir`.
        is_leaders: whether it is the folder of process 0 too, which then builds the examples for both.

    Raises:
        ValueError: the mesh, model, tokenizer, collection, losses or lengths cannot work.
    """
    with succeed_together():
        if config.stage == 2:
            check_scores(config)  # before the examples are made, which may take long
        opened = _open_model(config)
    data_folder = (folder or Path(config.output_dir)) / DATA_FOLDER
    examples, held_out = open_examples(config, opened.renderer, console, data_folder, is_leaders)
    with succeed_together():
        return _assemble(config, opened, examples, held_out)


def check_later_run(config: RunConfig, first: RunConfig) -> None:
    """Refuses what a run that starts from `first`'s result would be refused for once that is there.

    Every process calls it. What depends on documents is left to `prepare_run`.

    Raises:
        ValueError: the mesh, lengths, prompts, warmup, sources of data or losses cannot work, or its folder
            holds another run.
    """
    with succeed_together():
        if leads():
            check_place(config)
        start = dataclasses.replace(config.model, source=first.model.source)
        _open_model(dataclasses.replace(config, model=start))
        check_sources(config)


class _Opened(NamedTuple):
    """A checked model that is to be trained, and where its pretrained parameters will be."""

    mesh: jax.sharding.Mesh
    pretrained: Pretrained
    model: Transformer
    param_shardings: Any
    renderer: PromptRenderer


def _open_model(config: RunConfig) -> _Opened:
    make_schedule(config.optimizer, config.updates)  # refuses a warmup that is too long
    mesh = make_mesh(config.mesh)
    check_implementation(config.model.attention, config.model.compute_dtype, mesh)
    part = config.train.batch_size // config.train.accumulation
    check_batch_size("train.batch_size / train.accumulation", part, mesh)
    check_batch_size("probe.batch_size", config.probe.batch_size, mesh)
    pretrained = open_pretrained(config.model.source)
    check_head_size(config.model.attention, pretrained.config.head_dim)
    _check_positions(config, pretrained.config)
    check_tokenizer(pretrained)
    model = make_model(config, pretrained.config)
    _warn_of_other_prompt(config, pretrained)
    data = config.data
    renderer = make_renderer(
        pretrained.tokenizer,
        max_length=data.max_length,
        instruction=data.instruction,
        system=data.system,
        excerpts=data.excerpts,
    )
    return _Opened(mesh, pretrained, model, pretrained_shardings(model, mesh), renderer)


def _assemble(config: RunConfig, opened: _Opened, examples: ExampleSet, held_out: ExampleSet) -> Run:
    mesh, pretrained, model, param_shardings, renderer = opened
    buckets = stage_buckets(config, np.concatenate([examples.lengths, held_out.lengths]))
    asked = choose_held_out(
        held_out,
        count=config.probe.examples,
        batch_size=config.probe.batch_size,
        buckets=buckets,
        within_queries=config.stage == 2,
    )

    optimizer = make_optimizer(config.optimizer, config.updates)
    shardings = train_state_shardings(model, optimizer, mesh)
    answers = renderer.answer_tokens
    schedule = make_schedule(config.optimizer, config.updates)
    alike = len(renderer.prefix)
    stage = make_stage(Parts(config, model, optimizer, schedule, answers, mesh, examples, alike), buckets)
    stage.batches()  # refuses examples that make no batch

    def start(params: Params) -> TrainState:
        return init_state(params, model, optimizer, shardings, config.train.seed)

    return Run(
        config=config,
        model_config=pretrained.config,
        tokenizer=pretrained.tokenizer,
        renderer=renderer,
        mesh=mesh,
        stage=stage,
        examples=examples,
        held_out=asked,
        inputs=fingerprint_inputs(config, examples, held_out, stage.uses_reference),
        probe_step=make_probe_step(model, answers, config.grpo.max_new_tokens, mesh),
        load_initial_params=lambda: pretrained.load_params(param_shardings),
        init_state=start,
        abstract_state=abstract_state(model, start, shardings),
    )


def make_model(config: RunConfig, shape: ModelConfig) -> Transformer:
    """The model of a run: the architecture of its source, computed as the config says."""
    computed = config.model
    return Transformer(shape, computed.compute_dtype, computed.remat, config.lora, computed.attention)


def _warn_of_other_prompt(config: RunConfig, pretrained: Pretrained) -> None:
    before = own_settings(pretrained)
    if before is None:
        return
    for name in ("system", "instruction", "excerpts"):
        here, there = getattr(config.data, name), getattr(before, name)
        if here != there:
            _log.warning(
                "data.%s=%r: %s was trained with %r; another prompt undoes part of that",
                name,
                here,
                config.model.source,
                there,
            )


def abstract_state(
    model: Transformer, start: Callable[[Params], TrainState], shardings: TrainState
) -> TrainState:
    """Shapes, dtypes and shardings of the state that `start` makes of pretrained parameters."""
    pretrained = split_factors(nn.unbox(abstract_params(model)))[1]
    shapes = jax.eval_shape(start, pretrained)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _check_positions(config: RunConfig, model: ModelConfig) -> None:
    needed = config.data.max_length + config.grpo.max_new_tokens
    if needed > model.max_positions:
        raise ValueError(
            f"data.max_length={config.data.max_length}: with grpo.max_new_tokens it needs {needed} "
            f"positions, the model has {model.max_positions}"
        )
