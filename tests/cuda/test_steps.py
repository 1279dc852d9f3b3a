"""Scoring and a training step of each stage on a GPU: against the CPU, their memory, and what is compiled.

The functions `check_*` are for any accelerator and its kernel: tests/tpu_device uses them too.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prorank_jax.config import GrpoOptions, MeshOptions
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.plain import MOST_CAUSAL_BLOCKS
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.prompts import AnswerTokens
from prorank_jax.ranking_losses import LossOptions, make_losses
from prorank_jax.ranking_step import RankingObjective, make_ranking_step
from prorank_jax.sharding import make_mesh, put_batch
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch

ANSWERS = AnswerTokens(zero=3, one=5, end=7)
ROWS, WIDTH, PREFIX, DOCUMENTS = 8, 512, 64, 4
# Of bfloat16's rounding through four layers, on scores that are about 1 apart; norms of gradients likewise.
SCORE_TOLERANCE, NORM_TOLERANCE = 0.06, 0.05
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


def prompts(rows: int = ROWS, width: int = WIDTH) -> Batch:
    rng = np.random.default_rng(1)
    lengths = rng.integers(width // 3, width + 1, rows).astype(np.int32)
    order = np.arange(rows, dtype=np.int32)
    return Batch(rng.integers(8, 1024, (rows, width)).astype(np.int32), lengths, order % 2, order)


def lists() -> ListBatch:
    rng = np.random.default_rng(2)
    shape, width = (2, DOCUMENTS), WIDTH - PREFIX
    return ListBatch(
        prefix=rng.integers(8, 1024, (2, PREFIX)).astype(np.int32),
        prefix_lengths=np.array([PREFIX - 3, 0], np.int32),
        tokens=rng.integers(8, 1024, (*shape, width)).astype(np.int32),
        lengths=rng.integers(1, width + 1, shape).astype(np.int32),
        grades=np.tile(np.array([1, 0, 0, 0], np.float32), (2, 1)),
        teacher=np.full(shape, np.nan, np.float32),
        mask=np.ones(shape, bool),
        in_batch=np.zeros(shape, bool),
        examples=np.zeros(shape, np.int32),
    )


def reward(tokens, labels):
    return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)


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
        objective = RankingObjective(make_losses(LossOptions()), {"listwise": 1.0}, 0.0)
        step = make_ranking_step(model, optimizer, schedule, objective, 1, ANSWERS, mesh)
        batch, more = lists(), ()

    def run() -> dict[str, float]:
        with jax.set_mesh(mesh):
            params = jax.device_put(random_params(model), shardings.params)
            state = init_state(params, model, optimizer, shardings)
            _, metrics, *_ = step(state, None, put_batch(batch, mesh), *more)
        return {name: float(value) for name, value in metrics.items()}

    return run, step


def scores_on(device, attention: str, dtype: str) -> np.ndarray:
    model, mesh = model_with(attention, dtype), make_mesh(MeshOptions(), [device])
    with jax.set_mesh(mesh):
        step = make_score_step(model, ANSWERS, mesh)
        return np.asarray(step(jax.device_put(random_params(model), device), put_batch(prompts(), mesh)))


def gpu():
    return jax.devices("gpu")[0]


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


def check_ranking(device, kernel: str) -> None:
    """Loss and gradient norm are those of float32 on the host."""
    exact = build("2", model_with("xla", "float32"), cpu())[0]()
    ours = build("2", model_with(kernel, "bfloat16"), device)[0]()
    assert abs(ours["loss"] - exact["loss"]) <= SCORE_TOLERANCE
    assert abs(ours["grad_norm"] / exact["grad_norm"] - 1) <= NORM_TOLERANCE


def check_training_step(device, kernel: str, which: str) -> None:
    """It is finite, and compiled once."""
    run, step = build(which, model_with(kernel, "bfloat16"), device)
    first, second = run(), run()
    assert all(np.isfinite(value) for value in (*first.values(), *second.values()))
    assert first["grad_norm"] > 0
    assert step._cache_size() == 1


def test_scores_are_those_of_float32_on_the_host():
    check_scores(gpu(), "cudnn")


def test_ranking_gives_the_numbers_of_float32_on_the_host():
    check_ranking(gpu(), "cudnn")


@pytest.mark.parametrize("which", ["1", "2"])
def test_a_training_step_is_finite_and_compiled_once(which):
    check_training_step(gpu(), "cudnn", which)


def test_cudnn_needs_less_memory_than_plain_attentions_logits():
    """The plan of the compiler for scoring long rows, and what the device really held.

    Plain attention computes a block of queries at a time over all keys before them.
    """
    mesh = make_mesh(MeshOptions(), [gpu()])
    batch = prompts(4, 2048)

    def compiled(attention: str):
        model = model_with(attention, "bfloat16", "none")
        step = make_score_step(model, ANSWERS, mesh)
        params = jax.device_put(random_params(model), gpu())
        with jax.set_mesh(mesh):
            return step.lower(params, put_batch(batch, mesh)).compile(), params

    (fused, params), (plain, _) = compiled("cudnn"), compiled("xla")
    logits = 4 * SHAPE.heads * (2048 // MOST_CAUSAL_BLOCKS) * 2048 * 4
    saved = plain.memory_analysis().temp_size_in_bytes - fused.memory_analysis().temp_size_in_bytes
    assert saved >= logits
    with jax.set_mesh(mesh):
        fused(params, put_batch(batch, mesh)).block_until_ready()
    statistics = gpu().memory_stats()
    assert statistics is not None
    assert 0 < statistics["peak_bytes_in_use"] < statistics["bytes_limit"]
