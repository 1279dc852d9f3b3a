"""The steps lowered for CUDA, with no GPU: cuDNN's kernels, and no logits of whole rows in memory."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.programs import build_program
from prorank_jax.config import MeshOptions, RunConfig
from prorank_jax.config_files import config_from_flat
from prorank_jax.models import layers, over_mesh, products
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.plain import CAUSAL_BLOCK
from prorank_jax.models.transformer import Transformer
from prorank_jax.sharding import make_mesh
from prorank_jax.types import Batch, ListBatch, PromptRows
from tests.cpu.tiny import tiny_model

WIDTH = 512
HEADS_PER_KV_HEAD, LAYERS = 7, 24  # of Qwen2.5-0.5B
ROW = 2 * WIDTH  # tokens of a row of prompts behind each other
KEYS = (*range(WIDTH, WIDTH + 65), ROW)  # of a prompt, of a prompt and its completions, and of such a row
FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
KERNELS = re.compile(r"@(__cudnn\$\w+)")
FLOATS = re.compile(r"tensor<([\dx]+)xf32>")


@pytest.fixture(autouse=True)
def _traced_as_for_a_gpu(monkeypatch):
    """The devices here are CPUs, for which products and what is kept are written otherwise."""
    for module in (over_mesh, products, layers):
        monkeypatch.setattr(module, "on_cpu", lambda: False)


@pytest.fixture(autouse=True)
def _cudnn_seems_installed(monkeypatch):
    """jax asks for cuDNN's version when it traces a call; nothing of it is used before a program runs."""
    name = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(name, lambda: 91_000)


def lowered_for_cuda(step, *arguments) -> str:
    return jax.jit(step).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def kernels(text: str) -> Counter[str]:
    return Counter(KERNELS.findall(text))


def largest_logits(text: str) -> int:
    """The most rows, of all query heads of a KV head, in a float32 array [B, ..., rows, keys].

    No other size is like that of the keys.
    """
    shapes = ([int(size) for size in found.split("x")] for found in FLOATS.findall(text))
    return max((shape[-2] for shape in shapes if len(shape) >= 4 and shape[-1] in KEYS), default=0)


def kept_in_float32(text: str) -> list[str]:
    """Arrays of every layer and every token of a row, as the backward pass keeps them, in float32."""
    return [found for found in FLOATS.findall(text) if f"{LAYERS}x4x{WIDTH}x" in f"{found}x"]


def config(**changes: object) -> RunConfig:
    plain = {
        "model.source": "Qwen/Qwen2.5-0.5B-Instruct",
        "model.compute_dtype": "bfloat16",
        "model.attention": "cudnn",
        "model.remat": "gate",
        "data.max_length": WIDTH,
        "train.batch_size": 4,
        "ranking.list_size": 4,
    }
    return config_from_flat(plain | changes)


def packed(argument: object) -> object:
    """A step's argument, batches with prompts or documents behind each other."""
    if isinstance(argument, Batch):
        return dataclasses.replace(argument, rows=PromptRows(len(argument.tokens), 16, ROW))
    if isinstance(argument, ListBatch):
        _, documents, width = argument.tokens.shape
        return dataclasses.replace(argument, row_tokens=documents * width * 3 // 4)
    return argument


@pytest.mark.parametrize(
    ("which", "packs", "forward", "backward"),
    [("score", False, 1, 0), ("1", False, 1, 1), ("1", True, 1, 1), ("2", False, 2, 2), ("2", True, 2, 2)],
)
def test_steps_of_a_real_model_attend_through_cudnn_and_keep_no_logits(which, packs, forward, backward):
    chosen = config()
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    program = build_program(chosen, which, resolve_shape(chosen.model.source), mesh)
    arguments = [packed(one) if packs else one for one in program.arguments]
    with jax.set_mesh(mesh):
        text = program.step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    # Layers are scanned, so a kernel stands once: in stage 2 for what a list shares, and for the rest.
    assert kernels(text) == Counter({FORWARD: forward, BACKWARD: backward}) - Counter()
    assert largest_logits(text) <= chosen.grpo.group_size * HEADS_PER_KV_HEAD
    assert not kept_in_float32(text)


def test_plain_attention_does_keep_logits_of_whole_rows():
    chosen = config(**{"model.attention": "xla"})
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    program = build_program(chosen, "score", resolve_shape(chosen.model.source), mesh)
    with jax.set_mesh(mesh):
        text = program.step.trace(*program.arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert not kernels(text)
    assert largest_logits(text) == CAUSAL_BLOCK * HEADS_PER_KV_HEAD


def loss_of(model: Transformer, lengths: jax.Array):
    def loss(params, tokens):
        return model.apply({"params": params}, tokens, prompt_layout(lengths, tokens.shape[1]))[0].sum()

    return jax.grad(loss)


@pytest.mark.parametrize(
    ("remat", "runs"),
    [("none", 1), ("dots", 1), ("mlp", 1), ("gate", 1), ("attention", 1), ("dots_no_batch", 2), ("full", 2)],
)
def test_policies_that_keep_what_attention_gives_run_the_kernel_once(remat, runs):
    model, params = tiny_model(remat=remat, head_dim=8)
    model = model.clone(attention="cudnn", compute_dtype="bfloat16")
    text = lowered_for_cuda(loss_of(model, jnp.array([70, 9])), params, jnp.zeros((2, 80), jnp.int32))
    assert kernels(text) == Counter({FORWARD: runs, BACKWARD: 1})
