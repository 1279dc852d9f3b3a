"""Prompts behind each other in rows give what each gives by itself: states, keys, values, and gradients."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.prompt_pass import prompt_states
from prorank_jax.types import Batch, PromptRows
from tests.cpu.tiny import VOCABULARY, tiny_model

PROMPTS, WIDTH = 6, 24


def batch_that_begins_alike(shared: int, seed: int = 0, width: int = WIDTH) -> Batch:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (PROMPTS, width)).astype(np.int32)
    tokens[:, :shared] = tokens[0, :shared]
    lengths = rng.integers(shared + 1, width, PROMPTS).astype(np.int32)
    lengths[0], lengths[-1] = width, shared + 1  # no padding, and next to no rest
    order = np.arange(PROMPTS, dtype=np.int32)
    return Batch(tokens, lengths, order % 2, order)


def in_rows(batch: Batch, prompts: int, shared: int, spare: int) -> Batch:
    """The batch with rows that have `spare` tokens more than the fullest one needs."""
    rests = (batch.lengths - shared).reshape(-1, prompts).sum(axis=1)
    return dataclasses.replace(batch, rows=PromptRows(prompts, shared, shared + int(rests.max()) + spare))


ROWS = [("qwen2", 3, 7, 0), ("llama", 6, 0, 5), ("qwen3", 2, 16, 3)]


@pytest.mark.parametrize(("family", "prompts", "shared", "spare"), ROWS)
@pytest.mark.parametrize("trains", [True, False])
def test_rows_give_the_states_keys_and_values_of_padded_prompts(family, prompts, shared, spare, trains):
    model, params = tiny_model(family)
    batch = batch_that_begins_alike(shared)
    read = jax.jit(partial(prompt_states, model, trains=trains))
    states, keyvalues = read(params, batch)
    own, own_keyvalues = read(params, in_rows(batch, prompts, shared, spare))
    np.testing.assert_allclose(own, states, atol=2e-5)
    real = np.arange(WIDTH) < batch.lengths[:, None]
    assert jax.tree.structure(own_keyvalues) == jax.tree.structure(keyvalues)
    for mine, padded in zip(jax.tree.leaves(own_keyvalues), jax.tree.leaves(keyvalues), strict=True):
        assert mine.shape == padded.shape
        assert np.isfinite(mine).all()
        of_tokens = (slice(None),) * (mine.ndim - 4)
        np.testing.assert_allclose(mine[(*of_tokens, real)], padded[(*of_tokens, real)], atol=2e-5)


@pytest.mark.parametrize(
    ("attention", "width", "prompts", "shared", "spare"),
    [
        *(("xla", WIDTH, *rows) for _, *rows in ROWS),
        # What all begin with is as long as blocks and kernels are for.
        ("xla", 280, 2, 140, 0),
        ("cudnn_emulated", 160, 2, 70, 0),
        ("splash_interpreted", 300, 2, 130, 5),
    ],
)
def test_rows_give_the_gradients_of_padded_prompts(attention, width, prompts, shared, spare):
    model, params = tiny_model(head_dim=8, max_positions=512)
    model = model.clone(attention=attention)
    batch = batch_that_begins_alike(shared, 1, width)
    real = np.arange(width) < batch.lengths[:, None]

    @jax.jit
    def gradient(params, batch):
        def weighed(params):
            states, keyvalues = prompt_states(model, params, batch, trains=True)
            leaves = [states, *(jnp.where(real[..., None, None], kv, 0) for kv in jax.tree.leaves(keyvalues))]
            return sum((leaf * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))).sum() for leaf in leaves)

        return jax.grad(weighed)(params)

    expected = gradient(params, batch)
    found = gradient(params, in_rows(batch, prompts, shared, spare))
    for mine, padded in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, padded, atol=2e-5 * float(jnp.abs(padded).max() + 1))
