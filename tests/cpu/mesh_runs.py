"""A few steps of either stage on any mesh, with everything that a mesh could change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from prorank_jax.config import GrpoOptions, LoraOptions, MeshOptions, OptimizerOptions
from prorank_jax.models.transformer import Transformer
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.prompt_rows import RowMembers, members_of_rows
from prorank_jax.ranking_losses import LossOptions, make_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.sharding import make_mesh, put_batch
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import all_params, init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch, PromptRows, TrainState
from tests.cpu.tiny import ANSWERS, VOCABULARY, random_batch, tiny_model

STEPS = 3
ROWS = 32
SHARED = 2  # tokens that the prompts of stage 1 begin with
MESHES = ((8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4))
FULL, LORA = LoraOptions(), LoraOptions(rank=2, alpha=6.0)
OPTIMIZER = OptimizerOptions(learning_rate=3e-3, warmup_steps=1, weight_decay=0.1)
LOSSES = make_losses(LossOptions(top_grade=2.0))
OBJECTIVE = RankingObjective(LOSSES, {"listwise": 1.0, "pointwise": 0.5}, kl_coefficient=0.1)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and in how many parts a batch is computed."""

    stage: int
    parts: int = 1
    updates: int = 1
    lora: LoraOptions = FULL


class Outcome(NamedTuple):
    """Everything of a run, on the host.

    Attributes:
        metrics: of each step.
        completions: of each step; empty in stage 2.
        first_gradients: the optimizer's mean of gradients after the first step: the first gradients, clipped.
        params: what is trained, after the last step.
        movement: how far it came from where it began.
        opt_state: after the last step.
        scores: of the trained model.
    """

    metrics: list[dict[str, float]]
    completions: list[np.ndarray]
    first_gradients: Any
    params: Any
    movement: Any
    opt_state: Any
    scores: np.ndarray


def one_device() -> Mesh:
    return make_mesh(MeshOptions(), jax.devices()[:1])


def eight_devices(*sizes: int) -> Mesh:
    return make_mesh(MeshOptions(*sizes), jax.devices()[:8])


def graded_reward(tokens: jax.Array, labels: jax.Array) -> jax.Array:
    """Differs between an untrained model's completions; each third group is tied."""
    rewards = (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)
    return jnp.where((tokens[:, :1, 0] % 3) == 0, 1.0, rewards)


def random_lists(seed: int) -> ListBatch:
    rng = np.random.default_rng(seed)
    lists, documents, prefix, rest = ROWS, 3, 8, 6
    mask = np.ones((lists, documents), bool)
    mask[::5, 2] = False
    return ListBatch(
        prefix=rng.integers(0, VOCABULARY, (lists, prefix)).astype(np.int32),
        prefix_lengths=rng.integers(2, prefix + 1, lists).astype(np.int32),
        tokens=rng.integers(0, VOCABULARY, (lists, documents, rest)).astype(np.int32),
        lengths=np.minimum(rng.integers(1, rest + 1, (lists, documents)), rest - np.arange(documents)).astype(
            np.int32
        ),
        grades=rng.integers(0, 3, (lists, documents)).astype(np.float32),
        teacher=rng.normal(size=(lists, documents)).astype(np.float32),
        mask=mask,
        in_batch=np.zeros((lists, documents), bool),
        examples=np.arange(lists * documents, dtype=np.int32).reshape(lists, documents),
        row_tokens=documents * rest - 2 if seed % 2 else None,  # packed and padded ones in turn
    )


def adam_state(opt_state: Any) -> Any:
    (adam,) = (
        part
        for part in jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "mu"))
        if hasattr(part, "mu")
    )
    return adam


def stage_1_batch(number: int, members: RowMembers | None, *, changed_row: bool = False) -> Batch:
    """Prompts that begin alike, padded or behind each other."""
    batch = random_batch(ROWS, seed=number)
    batch.tokens[:, :SHARED] = batch.tokens[0, :SHARED]
    if changed_row:
        batch.tokens[3, SHARED:] = (batch.tokens[3, SHARED:] + 1) % VOCABULARY
    if members is None:
        return batch
    rows = PromptRows(members.prompts, members.shared, members.tokens(batch.lengths))
    return dataclasses.replace(batch, rows=rows)


class Programs(NamedTuple):
    """What is jitted for a case on a mesh, and what its states are made of."""

    model: Transformer
    optimizer: optax.GradientTransformation
    shardings: TrainState
    step: Callable[..., Any]


@cache
def programs(mesh: Mesh, case: Case) -> Programs:
    """Made once, so that a second run of the case traces nothing."""
    model = tiny_model()[0].clone(lora=case.lora)
    updates = STEPS * case.updates
    optimizer, schedule = make_optimizer(OPTIMIZER, updates), make_schedule(OPTIMIZER, updates)
    shardings = train_state_shardings(model, optimizer, mesh)
    step: Any
    if case.stage == 1:
        options = GrpoOptions(group_size=4, kl_coefficient=0.1, updates_per_rollout=case.updates)
        step = make_grpo_step(
            model, optimizer, schedule, options, ANSWERS, graded_reward, mesh, accumulation=case.parts
        )
    else:
        step = make_ranking_step(model, optimizer, schedule, OBJECTIVE, case.parts, ANSWERS, mesh)
    return Programs(model, optimizer, shardings, step)


@cache
def score_step(mesh: Mesh, model: Transformer) -> Callable[..., Any]:
    """Both stages score with it."""
    return make_score_step(model, ANSWERS, mesh)


def run_on(mesh: Mesh, case: Case, *, changed_row: bool = False) -> Outcome:
    """`STEPS` steps of a run that has everything: a KL term, warmup, weight decay, clipping.

    One device has stage 1's prompts padded, several have them behind each other in rows.

    Args:
        changed_row: stage 1 sees another prompt in one row of each batch.
    """
    model, optimizer, shardings, step = programs(mesh, case)
    whole = shardings.frozen if case.lora.rank else shardings.params
    reference = None if case.lora.rank else jax.device_put(tiny_model(seed=1)[1], whole)
    state = init_state(jax.device_put(tiny_model()[1], whole), model, optimizer, shardings, seed=2)
    start = jax.device_get(state.params)
    metrics, completions, first_gradients = [], [], None
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    members = members_of_rows(ROWS, case.parts, ways, SHARED, longest=10) if mesh.size > 1 else None
    for number in range(STEPS):
        if case.stage == 1:
            batch = put_batch(stage_1_batch(number, members, changed_row=changed_row), mesh)
            state, values, tokens = step(state, reference, batch, jax.random.key(number))
            completions.append(np.asarray(tokens))
        else:
            state, values = step(state, reference, put_batch(random_lists(number), mesh))
        metrics.append({name: float(value) for name, value in values.items()})
        if number == 0:
            first_gradients = jax.device_get(adam_state(state.opt_state).mu)
    held_out: Batch = put_batch(random_batch(ROWS, seed=9), mesh)
    scores = score_step(mesh, model)(all_params(state), held_out)
    trained, opt_state, scores = jax.device_get((state.params, state.opt_state, scores))
    movement = jax.tree.map(lambda after, before: after - before, trained, start)
    return Outcome(metrics, completions, first_gradients, trained, movement, opt_state, scores)


def worst_difference(ours: Any, theirs: Any) -> float:
    """The largest norm of a leaf's difference, relative to the leaf's own norm."""
    return max(
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )
