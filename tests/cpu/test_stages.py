"""A stage is built with what its config says, and its work is that of its batches."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np
import optax
import pytest

import prorank_jax.stages
from prorank_jax.config import MeshOptions
from prorank_jax.config_files import config_from_flat
from prorank_jax.data import ExampleSet
from prorank_jax.flops import grpo_step_flops, ranking_step_flops
from prorank_jax.learning_signs import Goals
from prorank_jax.metrics_log import CompilationCounter
from prorank_jax.sampled_accuracy import greatest_sampled_accuracy
from prorank_jax.sharding import make_mesh, put_batch, replicated
from prorank_jax.stages import Parts, Stage, Work, make_stage, make_warmup_step
from prorank_jax.steps import make_grpo_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Candidate, Document, RankingGroup
from tests.cpu.data_fixtures import MemoryExamples, listed
from tests.cpu.tiny import ANSWERS, random_batch, tiny_model

MODEL = tiny_model()[0]
GROUPS = [
    RankingGroup(
        f"q{query}",
        f"what about {query}",
        tuple(Candidate(Document(f"d{query}{i}", f"text {i}"), grade) for i, grade in enumerate((2, 1, 0))),
    )
    for query in range(4)
]


def make_parts(examples: ExampleSet, **changes: Any) -> Parts:
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    config = config_from_flat({"train.batch_size": 2, "ranking.list_size": 2} | changes)
    return Parts(config, MODEL, optax.sgd(1.0), optax.constant_schedule(1.0), ANSWERS, mesh, examples, 2)


def test_the_warmup_step_is_built_with_the_configs_reward_and_parts(monkeypatch):
    given: dict[str, Any] = {}

    def note(*arguments: Any, **named: Any) -> None:
        given.update(inspect.signature(make_grpo_step).bind(*arguments, **named).arguments)

    monkeypatch.setattr(prorank_jax.stages, "make_grpo_step", note)
    changes = {"grpo.format_weight": 0.25, "grpo.correct_weight": 2.0, "train.accumulation": 2}
    parts = make_parts(MemoryExamples([], []), **changes)
    make_warmup_step(parts.config, MODEL, parts.optimizer, parts.schedule, ANSWERS, parts.mesh)
    zero, one, end = ANSWERS.zero, ANSWERS.one, ANSWERS.end
    answers = np.array([[[one, end], [one, one], [zero, end], [end, end]]])
    np.testing.assert_array_equal(given["reward"](answers, np.array([1])), [[2.25, 2.125, 0.25, 0.0]])
    assert given["accumulation"] == 2
    assert given["options"] == parts.config.grpo


@pytest.mark.parametrize("rank", [0, 2])
def test_the_work_of_a_warmup_step_is_that_of_all_processes(rank):
    """This process has half of the rows."""
    changes = {"train.batch_size": 8, "lora.rank": rank, "grpo.updates_per_rollout": 3}
    parts = make_parts(MemoryExamples([9] * 8, [0, 1] * 4), **changes)
    batch = random_batch(4)
    work = make_stage(parts, (10,)).work(batch)
    assert (work.prompts, work.tokens) == (8, 2 * batch.lengths.sum())
    assert work.flops == grpo_step_flops(MODEL.config, parts.config.grpo, 8, 10, low_rank=rank > 0)


def test_prompts_stand_in_rows_unless_the_config_says_that_they_do_not():
    examples = MemoryExamples([4, 5, 6, 16] * 8, [0, 0, 1, 1] * 8)
    sizes = {"train.batch_size": 8, "train.accumulation": 2}
    stage = make_stage(make_parts(examples, **sizes), (16,))
    batch = next(stage.batches())
    assert batch.rows is not None
    assert (batch.rows.prompts, batch.rows.shared) == (4, 2)
    counted = grpo_step_flops(MODEL.config, make_parts(examples).config.grpo, 8, 16, batch.rows)
    assert stage.work(batch).flops == counted
    padded = make_stage(make_parts(examples, **sizes, **{"grpo.packing": False}), (16,))
    assert next(padded.batches()).rows is None


def test_speeds_are_of_a_second():
    speeds = Work(prompts=6, tokens=30, flops=9 * 10**12).speeds(3.0)
    assert speeds == {"prompts_per_second": 2.0, "tokens_per_second": 10.0, "model_tflops": 3.0}


@pytest.mark.parametrize("changes", [{}, {"stage": 2}])
def test_the_bytes_of_a_step_are_known_before_it_and_nothing_is_compiled_twice(changes):
    examples = listed(GROUPS) if changes else MemoryExamples([9, 8] * 4, [0, 1] * 4)
    parts = make_parts(examples, **changes)
    stage = make_stage(parts, (10,))
    model, params = tiny_model()
    shardings = train_state_shardings(model, parts.optimizer, parts.mesh)
    arguments = (
        init_state(params, model, parts.optimizer, shardings, 0),
        None,
        put_batch(next(stage.batches()), parts.mesh),
        jax.device_put(jax.random.key(0), replicated(parts.mesh)),
    )
    counter = CompilationCounter()
    with jax.set_mesh(parts.mesh):
        taken = stage.temporary_bytes(*arguments)
        compiled = counter.count
        stage.step(*arguments)
    assert compiled > 0
    assert counter.count == compiled
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert gradients / 2 < taken < 1000 * gradients


@pytest.fixture
def untraced_ranking_step(monkeypatch) -> None:
    monkeypatch.setattr(prorank_jax.stages, "make_ranking_step", lambda *_: None)


def ranking_stage(**changes: Any) -> Stage:
    return make_stage(make_parts(listed(GROUPS), **{"stage": 2} | changes), ())


@pytest.mark.usefixtures("untraced_ranking_step")
@pytest.mark.parametrize(
    ("changes", "costs"),
    [
        ({}, {}),
        ({"lora.rank": 2}, {"low_rank": True}),
        ({"ranking.kl_coefficient": 0.1}, {"uses_reference": True}),
        ({"ranking.losses": "preference=1"}, {"uses_reference": True}),
        ({"ranking.format_coefficient": 0.1}, {"reads_answer": True}),
    ],
)
def test_the_work_of_a_ranking_step_counts_what_the_config_adds(changes, costs):
    stage = ranking_stage(**changes)
    batch = next(stage.batches())
    lists, documents, rest = batch.tokens.shape
    assert (lists, documents) == (2, 2)
    sizes = (MODEL.config, lists, documents, batch.prefix.shape[1], rest)
    counted = ranking_step_flops(*sizes, row_tokens=batch.row_tokens, **costs)
    assert stage.work(batch).flops == counted


@pytest.mark.usefixtures("untraced_ranking_step")
@pytest.mark.parametrize(("relevant_grade", "taken"), [(1, [2, 0]), (2, [2, 1])])
def test_half_of_a_list_is_relevant_by_the_configs_own_limit(relevant_grade, taken):
    batch = next(ranking_stage(**{"data.relevant_grade": relevant_grade}).batches())
    np.testing.assert_array_equal(batch.grades, [taken, taken])


def test_the_warmup_is_after_the_reward_that_its_weights_can_give():
    changes = {"grpo.format_weight": 0.25, "grpo.correct_weight": 2.0, "grpo.entropy_coefficient": 0.9}
    parts = make_parts(MemoryExamples([9] * 8, [0, 1] * 4), **changes)
    allowed = greatest_sampled_accuracy(parts.config.grpo)
    assert 0.7 < allowed < 0.9
    assert make_stage(parts, (10,)).goals == Goals("reward", 2.25, ("accuracy",), allowed)


@pytest.mark.usefixtures("untraced_ranking_step")
def test_lists_are_after_their_order_and_held_out_that_within_queries():
    assert ranking_stage().goals == Goals("ndcg", 1.0, ("query_auc",))
