"""Scoring and a training step of each stage on any accelerator: against float32 on the CPU.

What tests/cuda and tests/tpu_device share; tests/cpu/test_device_checks.py tries it on the CPU.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from prorank_jax.completions import completion_mask
from prorank_jax.config import GrpoOptions, MeshOptions
from prorank_jax.grpo import group_advantages
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.policy_gradient import replayed_gradients
from prorank_jax.prompt_rows import RowMembers
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import LossOptions, make_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.sharding import logical_axes, logical_rules, make_mesh, put_batch
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import Policy, init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch, PromptRows, Rollout

ANSWERS = AnswerTokens(zero=3, one=5, end=7)
ROWS, WIDTH, PREFIX, DOCUMENTS = 8, 512, 64, 4
SHARED = 8  # tokens that all prompts begin with
COMPLETIONS = (6, 3)  # of a prompt, and tokens of each
# Of bfloat16's rounding through four layers, on scores that are about 1 apart; norms of gradients likewise.
SCORE_TOLERANCE, NORM_TOLERANCE = 0.06, 0.05
# Least cosine of two gradients, in bfloat16; what float32 may differ by on another device.
COSINE, EXACT = 0.99, 1e-3
Learned = tuple[dict[str, float], np.ndarray]  # numbers, and gradients in one float64 vector
SHAPE = ModelConfig(
    family="qwen2",
    vocab_size=1024,
    dim=256,
    layers=4,
    heads=8,
    kv_heads=2,
    head_dim=64,
    mlp_dim=512,
    rope_theta=1e6,
    norm_eps=1e-6,
    tied=True,
    max_positions=4096,
)


def random_params(model: Transformer) -> dict:
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        is_norm = path[-1].key == "scale"
        return (1 + 0.1 * noise if is_norm else noise / np.sqrt(SHAPE.dim)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract_params(model)))


def moved(params: dict) -> dict:
    """The policy that training began with, as it were: a KL from it is not zero."""
    return jax.tree.map(lambda leaf: 1.1 * leaf, params)


def prompts(rows: int = ROWS, width: int = WIDTH) -> Batch:
    rng = np.random.default_rng(1)
    lengths = rng.integers(width // 3, width + 1, rows).astype(np.int32)
    order = np.arange(rows, dtype=np.int32)
    tokens = rng.integers(8, 1024, (rows, width)).astype(np.int32)
    tokens[:, :SHARED] = tokens[0, :SHARED]
    in_rows = PromptRows(rows, SHARED, RowMembers(rows, 1, SHARED).tokens(lengths))  # as training has them
    return Batch(tokens, lengths, order % 2, order, in_rows)


def lists() -> ListBatch:
    rng = np.random.default_rng(2)
    shape, width = (2, DOCUMENTS), WIDTH - PREFIX
    lengths = rng.integers(1, width, shape).astype(np.int32)  # a place is left for an answer
    return ListBatch(
        prefix=rng.integers(8, 1024, (2, PREFIX)).astype(np.int32),
        prefix_lengths=np.array([PREFIX - 3, 0], np.int32),
        tokens=rng.integers(8, 1024, (*shape, width)).astype(np.int32),
        lengths=lengths,
        grades=np.tile(np.array([1, 0, 0, 0], np.float32), (2, 1)),
        teacher=np.full(shape, np.nan, np.float32),
        mask=np.ones(shape, bool),
        in_batch=np.zeros(shape, bool),
        examples=np.zeros(shape, np.int32),
        row_tokens=int((lengths + 1).sum(axis=1).max()),  # packed, as training does by itself
    )


def reward(tokens, labels):
    return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)


def rollout(batch: Batch, completions: tuple[int, int]) -> Rollout:
    """Given completions of each prompt, of which some answer and end: nothing is sampled."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(8, 1024, (len(batch.lengths), *completions)).astype(np.int32)
    tokens[:, :3, 0] = ANSWERS.zero, ANSWERS.one, ANSWERS.one
    tokens[:, :2, 1:] = ANSWERS.end
    rewards = reward(tokens, batch.labels)
    advantages, tied = group_advantages(rewards, "mean")
    mask = completion_mask(jnp.asarray(tokens), ANSWERS.end)
    return jax.device_get(Rollout(tokens, mask, np.zeros_like(mask), rewards, advantages, tied))


def model_with(attention: str, dtype: str, remat: str = "gate") -> Transformer:
    return Transformer(SHAPE, dtype, remat, attention=attention)


def build(which: str, model: Transformer, device):
    """A function that runs the step once, from the same weights, and gives its numbers and the step."""
    mesh = make_mesh(MeshOptions(), [device])
    optimizer, schedule = optax.adamw(1e-4), optax.constant_schedule(1e-4)
    shardings = train_state_shardings(model, optimizer, mesh)
    if which == "1":
        step = make_grpo_step(model, optimizer, schedule, GrpoOptions(), ANSWERS, reward, mesh)
        batch, more = prompts(), (jax.random.key(5),)
    else:
        objective = RankingObjective(make_losses(LossOptions()), {"listwise": 1.0}, 0.3, 0.5)
        step = make_ranking_step(model, optimizer, schedule, objective, 1, ANSWERS, mesh)
        batch, more = lists(), ()

    def run() -> dict[str, float]:
        with jax.set_mesh(mesh):
            params = jax.device_put(random_params(model), shardings.params)
            state = init_state(params, model, optimizer, shardings)
            reference = (
                jax.device_put(moved(random_params(model)), shardings.params) if which == "2" else None
            )
            _, metrics, *_ = step(state, reference, put_batch(batch, mesh), *more)
        return {name: float(value) for name, value in metrics.items()}

    return run, step


def scores_on(device, attention: str, dtype: str) -> np.ndarray:
    model, mesh = model_with(attention, dtype), make_mesh(MeshOptions(), [device])
    with jax.set_mesh(mesh):
        step = make_score_step(model, ANSWERS, mesh)
        return np.asarray(step(jax.device_put(random_params(model), device), put_batch(prompts(), mesh)))


@functools.cache
def learner(model: Transformer, mesh: Mesh, completions: tuple[int, int]):
    """Loss, metrics and gradients of given completions, beside an initial policy; jitted."""
    options = GrpoOptions(group_size=completions[0], max_new_tokens=completions[1], kl_coefficient=0.3)
    rules = logical_rules(abstract_params(model), mesh)

    @jax.jit
    def learn(params, initial, batch, given):
        with logical_axes(rules, mesh):
            reference = Policy(model, initial)
            return replayed_gradients(
                params, {}, model, reference, batch, given, ANSWERS, options, on_policy=True
            )

    return learn


def learned_on(
    device, attention: str, dtype: str, batch: Batch, completions: tuple[int, int] = COMPLETIONS
) -> Learned:
    """Stage 1's loss, metrics and gradients of so many given completions of so many tokens."""
    model, mesh = model_with(attention, dtype), make_mesh(MeshOptions(), [device])
    params = random_params(model)
    with jax.set_mesh(mesh):
        given = jax.device_put((params, moved(params), batch, rollout(batch, completions)), device)
        (loss, metrics), gradients = jax.device_get(learner(model, mesh, completions)(*given))
    numbers = {"loss": loss} | metrics
    vector = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(gradients)])
    return {name: float(value) for name, value in numbers.items()}, vector


def cpu():
    return jax.devices("cpu")[0]


def check_scores(device, kernel: str) -> None:
    """They are those of float32 on the host."""
    exact = scores_on(cpu(), "xla", "float32")
    assert exact.std() > 0.1
    for attention in (kernel, "xla"):
        np.testing.assert_allclose(scores_on(device, attention, "bfloat16"), exact, atol=SCORE_TOLERANCE)
    # A GPU would multiply float32 in TensorFloat-32, a TPU in one pass of bfloat16.
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(scores_on(device, "xla", "float32"), exact, atol=1e-4)


def assert_alike(ours: Learned, exact: Learned, tolerance: float, of_norm: float, cosine: float) -> None:
    """Loss and metrics are as near as that, and the gradients' norms and directions."""
    for name, value in exact[0].items():
        assert abs(ours[0][name] - value) <= tolerance, name
    norms = np.linalg.norm(ours[1]), np.linalg.norm(exact[1])
    assert abs(norms[0] / norms[1] - 1) <= of_norm
    assert ours[1] @ exact[1] >= cosine * norms[0] * norms[1]


def check_warmup(device, kernel: str, batch: Batch) -> None:
    """Loss, metrics and gradients of given completions are those of float32 on the host."""
    exact, slopes = learned_on(cpu(), "xla", "float32", dataclasses.replace(batch, rows=None))
    assert exact["kl"] > 0.01

    for attention in (kernel, "xla"):
        half = learned_on(device, attention, "bfloat16", batch)
        assert_alike(half, (exact, slopes), SCORE_TOLERANCE, NORM_TOLERANCE, COSINE)
    with jax.default_matmul_precision("highest"):
        single = learned_on(device, "xla", "float32", batch)
    assert_alike(single, (exact, slopes), EXACT, EXACT, 1 - EXACT)


def check_ranking(device, kernel: str) -> None:
    """Loss, its KL and format terms and the gradient norm are those of float32 on the host."""
    exact = build("2", model_with("xla", "float32"), cpu())[0]()
    ours = build("2", model_with(kernel, "bfloat16"), device)[0]()
    assert exact["kl"] > 0.01
    for name in ("loss", "kl", "format_loss"):
        assert abs(ours[name] - exact[name]) <= SCORE_TOLERANCE, name
    assert abs(ours["grad_norm"] / exact["grad_norm"] - 1) <= NORM_TOLERANCE


def check_training_step(device, kernel: str, which: str) -> None:
    """It is finite, and compiled once."""
    run, step = build(which, model_with(kernel, "bfloat16"), device)
    first, second = run(), run()
    assert all(np.isfinite(value) for value in (*first.values(), *second.values()))
    assert first["grad_norm"] > 0
    assert step._cache_size() == 1
