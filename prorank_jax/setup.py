"""Builds the parts of a run from its config: prompts, data, mesh, model, optimizer, jitted steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flax.linen as nn
import grain
import jax
import numpy as np
from rich.console import Console

from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.data import ExampleSet, choose_buckets, open_dataset, probe_batches, train_iterator
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.sources import resolve_source
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import check_weights, load_model_config, load_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.probe import ProbeStep
from prorank_jax.prompts import PromptRenderer, make_renderer
from prorank_jax.rewards import answer_reward
from prorank_jax.run_folder import DATA_FOLDER, MODEL_CONFIG_FILE, TOKENIZER_FOLDER, write_json
from prorank_jax.sharding import check_batch_size, make_mesh
from prorank_jax.steps import (
    GrpoStep,
    abstract_params,
    init_state,
    make_grpo_step,
    make_probe_step,
    train_state_shardings,
)
from prorank_jax.types import Batch, Params, TrainState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Run:
    """The parts of a run; nothing here changes while it trains.

    Attributes:
        buckets: static prompt lengths, ascending.
        held_out: batches of the probe.
        load_initial_params: reads the pretrained parameters onto the mesh.
        init_state: the state of step 0 around such parameters.
        abstract_state: shapes, dtypes and shardings of a state, to restore one into.
    """

    config: RunConfig
    model_config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    renderer: PromptRenderer
    mesh: jax.sharding.Mesh
    examples: ExampleSet
    buckets: tuple[int, ...]
    held_out: list[Batch]
    grpo_step: GrpoStep
    probe_step: ProbeStep
    load_initial_params: Callable[[], Params]
    init_state: Callable[[Params], TrainState]
    abstract_state: TrainState

    def batches(self) -> grain.DatasetIterator[Batch]:
        """This process's rows of the training batches, from the first step on."""
        return train_iterator(
            self.examples,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            buckets=self.buckets,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def save_descriptions(self, output_dir: Path) -> None:
        """Writes the tokenizer and the architecture, so that the folder can be loaded as a model."""
        save_tokenizer(self.tokenizer, output_dir / TOKENIZER_FOLDER)
        write_json(output_dir / MODEL_CONFIG_FILE, self.model_config.to_hf())


def prepare_run(config: RunConfig, console: Console) -> Run:
    """Loads everything but the weights, which are only checked; examples are built at the first call.

    Raises:
        ValueError: the mesh, model, tokenizer, collection or lengths cannot work.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size("train.batch_size", config.train.batch_size, mesh)
    check_batch_size("probe.batch_size", config.probe.batch_size, mesh)
    path = resolve_source(config.model.source)
    model_config = load_model_config(path)
    check_weights(path, model_config)
    tokenizer = load_tokenizer(config.model.source)
    data = config.data
    renderer = make_renderer(
        tokenizer, max_length=data.max_length, instruction=data.instruction, system=data.system
    )
    _check_fits(config, model_config, tokenizer)

    console.print(f"data: {data.source} ({data.split}), held out: {data.probe_split}")
    folder = Path(config.output_dir) / DATA_FOLDER
    examples = open_dataset(data.source, data.split, data, renderer, folder, config.train.seed)
    probe_source = _probe_source(data)
    held_out = open_dataset(probe_source, data.probe_split, data, renderer, folder, config.train.seed)
    lengths = np.concatenate([examples.lengths, held_out.lengths])
    buckets = data.buckets or choose_buckets(lengths, data.max_length)
    probes = probe_batches(
        held_out, count=config.probe.examples, batch_size=config.probe.batch_size, buckets=buckets
    )

    model = Transformer(model_config, config.model.compute_dtype, config.model.remat)
    updates = config.train.steps * config.grpo.updates_per_rollout
    optimizer = make_optimizer(config.optimizer, updates)
    schedule = make_schedule(config.optimizer, updates)
    shardings = train_state_shardings(model, optimizer, mesh)
    answers, grpo = renderer.answer_tokens, config.grpo
    reward = answer_reward(answers, grpo.format_weight, grpo.correct_weight)

    def start(params: Params) -> TrainState:
        return init_state(params, optimizer, shardings)

    run = Run(
        config=config,
        model_config=model_config,
        tokenizer=tokenizer,
        renderer=renderer,
        mesh=mesh,
        examples=examples,
        buckets=buckets,
        held_out=probes,
        grpo_step=make_grpo_step(model, optimizer, schedule, grpo, answers, reward, mesh),
        probe_step=make_probe_step(model, answers, grpo.max_new_tokens, mesh),
        load_initial_params=lambda: load_params(path, model_config, shardings.params),
        init_state=start,
        abstract_state=_abstract_state(model, start, shardings),
    )
    run.batches()  # refuses examples that make no batch
    return run


def _probe_source(data: DataOptions) -> str:
    if data.probe_source:
        return data.probe_source
    if data.source.startswith("ir_datasets:"):
        raise ValueError(
            f"data.probe_source='': {data.source!r} names its own split, so the probe would see the training "
            "queries; name a held-out source, e.g. ir_datasets:beir/nfcorpus/dev"
        )
    return data.source


def _abstract_state(
    model: Transformer, start: Callable[[Params], TrainState], shardings: TrainState
) -> TrainState:
    shapes = jax.eval_shape(start, nn.unbox(abstract_params(model)))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _check_fits(config: RunConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    needed = config.data.max_length + config.grpo.max_new_tokens
    if needed > model.max_positions:
        raise ValueError(
            f"data.max_length={config.data.max_length}: with grpo.max_new_tokens it needs {needed} "
            f"positions, the model has {model.max_positions}"
        )
    if len(tokenizer) > model.vocab_size:
        raise ValueError(
            f"model.source={config.model.source!r}: its tokenizer has {len(tokenizer)} tokens, its embedding "
            f"{model.vocab_size}; take tokenizer and weights of one model"
        )
