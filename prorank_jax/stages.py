"""What differs between the two stages of training: their batches, their step, and what it tells."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from prorank_jax.batch_order import choose_buckets
from prorank_jax.config import RunConfig
from prorank_jax.data import ExampleSet, train_iterator
from prorank_jax.flops import grpo_step_flops, ranking_step_flops
from prorank_jax.learning_signs import Goals
from prorank_jax.lists import index_lists, list_iterator
from prorank_jax.models.transformer import Transformer
from prorank_jax.process_rows import rows_of_process
from prorank_jax.prompt_rows import RowMembers, members_of_rows
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import learns_level
from prorank_jax.ranking_objective import make_objective
from prorank_jax.ranking_step import make_ranking_step
from prorank_jax.rewards import answer_reward
from prorank_jax.sampled_accuracy import greatest_sampled_accuracy
from prorank_jax.steps import GrpoStep, make_grpo_step
from prorank_jax.types import Batch, ListBatch, Params, TrainState

TrainStep = Callable[
    [TrainState, Params | None, Any, jax.Array],
    tuple[TrainState, dict[str, jax.Array], jax.Array | None],
]


@dataclass(frozen=True)
class Work:
    """A step of all processes: prompts, tokens without padding (going by this process's), FLOPs."""

    prompts: int
    tokens: int
    flops: int

    def speeds(self, seconds: float) -> dict[str, float]:
        """As metrics of a step that took so long."""
        return {
            "prompts_per_second": self.prompts / seconds,
            "tokens_per_second": self.tokens / seconds,
            "model_tflops": self.flops / seconds / 1e12,
        }


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        step: `(state, reference, batch, key) → (state, metrics, completions or None)`, jitted.
        temporary_bytes: what a device's part of `step` takes beside these arguments; compiles it, for the
            step too.
        batches: an iterator over this process's part of the batches, from the first step on.
        work: what a batch amounts to.
        uses_reference: whether the step wants the initial parameters.
        shown: metrics beside the progress bar.
        curves: metrics of the report's picture, with their names there.
        goals: the metric that training drives up, and what should rise with it.
        trained: positions of the examples that the batches are made of; None: of all.
    """

    step: TrainStep
    temporary_bytes: Callable[..., int]
    batches: Callable[[], grain.DatasetIterator]
    work: Callable[[Any], Work]
    uses_reference: bool
    shown: tuple[str, ...]
    curves: Mapping[str, str]
    goals: Goals
    trained: np.ndarray | None = None


@dataclass(frozen=True)
class Parts:
    """What a stage is built from; `begins_alike` is the number of tokens that every prompt begins with."""

    config: RunConfig
    model: Transformer
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    answers: AnswerTokens
    mesh: Mesh
    examples: ExampleSet
    begins_alike: int


def make_stage(parts: Parts, buckets: tuple[int, ...]) -> Stage:
    """The stage that the config names.

    Args:
        buckets: static prompt lengths of stage 1; stage 2 chooses its own.

    Raises:
        ValueError: losses that do not exist or lack what they need, or examples that make no batch.
    """
    return _warmup(parts, buckets) if parts.config.stage == 1 else _ranking(parts)


def stage_buckets(config: RunConfig, lengths: np.ndarray) -> tuple[int, ...]:
    """The static lengths of whole prompts: those of the config, or chosen from the data."""
    return config.data.buckets or choose_buckets(lengths, config.data.max_length)


def _temporary_bytes(step: Any, *arguments: Any) -> int:
    """Of a jitted step; jax keeps what is compiled here for the call with such arguments."""
    return int(step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes)


def make_warmup_step(
    config: RunConfig,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    answers: AnswerTokens,
    mesh: Mesh,
) -> GrpoStep:
    """Stage 1's jitted step with the config's reward; see `make_grpo_step`."""
    grpo = config.grpo
    reward = answer_reward(answers, grpo.format_weight, grpo.correct_weight)
    return make_grpo_step(model, optimizer, schedule, grpo, answers, reward, mesh, config.train.accumulation)


def _warmup(parts: Parts, buckets: tuple[int, ...]) -> Stage:
    config, grpo = parts.config, parts.config.grpo
    step = make_warmup_step(config, parts.model, parts.optimizer, parts.schedule, parts.answers, parts.mesh)

    def work(batch: Batch) -> Work:
        rows, width = config.train.batch_size, batch.tokens.shape[1]
        low_rank = config.lora.rank > 0
        flops = grpo_step_flops(parts.model.config, grpo, rows, width, batch.rows, low_rank=low_rank)
        share = len(batch.lengths) / rows
        return Work(rows, round(np.sum(batch.lengths) / share), flops)

    return Stage(
        step=step,
        temporary_bytes=functools.partial(_temporary_bytes, step),
        batches=lambda: train_iterator(
            parts.examples,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            buckets=buckets,
            rows=rows_of_process(parts.mesh, config.train.batch_size),
            members=_row_members(parts) if grpo.packing else None,
        ),
        work=work,
        uses_reference=grpo.kl_coefficient > 0 and not config.lora.rank,
        shown=("reward", "format_rate", "accuracy", "answer_entropy", "tied_groups", "prompts_per_second"),
        curves={
            "reward": "reward",
            "format_rate": "format rate",
            "accuracy": "accuracy",
            "answer_entropy": "answer entropy (nats)",
            "tied_groups": "tied groups",
        },
        goals=Goals(
            learned="reward",
            most=grpo.format_weight + grpo.correct_weight,
            held_out=("accuracy",),
            greatest_accuracy=greatest_sampled_accuracy(grpo),
        ),
    )


def _row_members(parts: Parts) -> RowMembers | None:
    train, mesh = parts.config.train, parts.mesh
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    longest = parts.config.data.max_length
    return members_of_rows(train.batch_size, train.accumulation, ways, parts.begins_alike, longest)


def _ranking(parts: Parts) -> Stage:
    config, ranking = parts.config, parts.config.ranking
    objective = make_objective(config, parts.examples)
    index = index_lists(parts.examples, ranking, config.data.max_length)
    step = make_ranking_step(
        parts.model,
        parts.optimizer,
        parts.schedule,
        objective,
        config.train.accumulation,
        parts.answers,
        parts.mesh,
    )

    def run(
        state: TrainState, reference: Params | None, batch: ListBatch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array], None]:
        del key  # nothing is drawn
        return *step(state, reference, batch), None

    def work(batch: ListBatch) -> Work:
        _, documents, width = batch.tokens.shape
        lists = config.train.batch_size
        flops = ranking_step_flops(
            parts.model.config,
            lists,
            documents,
            batch.prefix.shape[1],
            width,
            low_rank=config.lora.rank > 0,
            uses_reference=objective.uses_reference,
            reads_answer=objective.format_coefficient > 0,
            row_tokens=batch.row_tokens,
        )
        real = batch.mask | batch.in_batch  # short lists have empty places
        tokens = np.sum(batch.lengths * real) + np.sum(batch.prefix_lengths)
        share = len(batch.lengths) / lists
        return Work(round(np.sum(real) / share), round(tokens / share), flops)

    losses = {name: f"loss: {name}" for name in objective.weights}
    return Stage(
        step=run,
        temporary_bytes=lambda state, reference, batch, _: _temporary_bytes(step, state, reference, batch),
        batches=lambda: list_iterator(
            parts.examples,
            index,
            ranking,
            lists_per_batch=config.train.batch_size,
            relevant_grade=config.data.relevant_grade,
            seed=config.train.seed,
            rows=rows_of_process(parts.mesh, config.train.batch_size),
        ),
        work=work,
        uses_reference=objective.uses_reference and not config.lora.rank,
        shown=("loss", "ndcg", "score_deviation", "prompts_per_second"),
        curves={"ndcg": "nDCG within the lists"} | losses,
        goals=Goals(
            learned="ndcg",
            most=1.0,
            # The AUC is over all queries; losses over lists leave each query's scores a free offset.
            held_out=("query_auc", "auc") if learns_level(objective.weights) else ("query_auc",),
        ),
        trained=np.concatenate(index.members),
    )
