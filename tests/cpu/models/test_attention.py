"""Who sees whom, and attention against a plain NumPy loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.models import attention
from prorank_jax.models.attention import (
    PADDING_SEGMENT,
    completion_layout,
    concatenate_layouts,
    dot_product_attention,
    prompt_layout,
    visibility,
)
from prorank_jax.models.layers import RMSNorm, rotary_angles, rotate

WIDTH, GROUP, NEW = 6, 3, 2


@given(st.lists(st.integers(1, WIDTH), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_prompt_sees_itself_causally_and_no_padding(lengths):
    layout = prompt_layout(jnp.array(lengths, jnp.int32), WIDTH)
    visible = np.asarray(visibility(layout, layout))
    for row, length in enumerate(lengths):
        for query in range(WIDTH):
            for key in range(WIDTH):
                assert visible[row, query, key] == (key <= query and key < length)


@given(st.integers(1, WIDTH))
@settings(max_examples=WIDTH, deadline=None)
def test_a_completion_sees_its_prompt_and_its_own_past_only(length):
    lengths = jnp.array([length], jnp.int32)
    own = completion_layout(lengths, GROUP, NEW)
    visible = np.asarray(visibility(own, concatenate_layouts(prompt_layout(lengths, WIDTH), own)))[0]
    for query in range(GROUP * NEW):
        np.testing.assert_array_equal(visible[query, :WIDTH], np.arange(WIDTH) < length)
        for key in range(GROUP * NEW):
            same = key // NEW == query // NEW
            assert visible[query, WIDTH + key] == (same and key <= query)


def test_positions_go_on_after_the_real_prompt():
    lengths = jnp.array([WIDTH, 2], jnp.int32)
    prompt, own = prompt_layout(lengths, WIDTH), completion_layout(lengths, GROUP, NEW)
    assert own.positions.tolist() == [[6, 7] * GROUP, [2, 3] * GROUP]
    assert own.segments.tolist() == [[1, 1, 2, 2, 3, 3]] * 2
    assert (prompt.segments == PADDING_SEGMENT).tolist() == [[False] * 6, [False] * 2 + [True] * 4]


def _plain_attention(query, key, value, visible):
    """One query vector at a time, in float64."""
    batch, queries, heads, head_dim = query.shape
    group = heads // key.shape[2]
    mixed = np.zeros(query.shape)
    for b, q, h in np.ndindex(batch, queries, heads):
        logits = key[b, :, h // group].astype(np.float64) @ query[b, q, h] / np.sqrt(head_dim)
        weights = np.exp(logits - logits.max()) * visible[b, q]
        mixed[b, q, h] = weights / weights.sum() @ value[b, :, h // group]
    return mixed


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_a_plain_loop(kv_heads):
    rng = np.random.default_rng(kv_heads)
    query = rng.normal(size=(2, 5, 4, 8)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, 7, kv_heads, 8)).astype(np.float32)
    visible = rng.random((2, 5, 7)) < 0.6
    visible[:, :, 0] = True
    got = dot_product_attention(query, jnp.asarray(key), jnp.asarray(value), visible)
    np.testing.assert_allclose(got, _plain_attention(query, key, value, visible), atol=2e-6)


@pytest.mark.parametrize("queries", [12, 13])
def test_long_rows_attend_in_blocks_to_the_same_values_and_gradients(queries, monkeypatch):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, queries, 4, 8)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, 9, 2, 8)).astype(np.float32)
    visible = rng.random((2, queries, 9)) < 0.6
    visible[:, :, 0] = True

    def weighted(query, key, value):
        mixed = dot_product_attention(query, key, value, visible)
        return (mixed * jnp.arange(mixed.size).reshape(mixed.shape)).sum() / mixed.size, mixed

    differentiate = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
    at_once = differentiate(query, key, value)
    monkeypatch.setattr(attention, "LONGEST_AT_ONCE", 4)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
    in_blocks = differentiate(query, key, value)
    for a, b in zip(jax.tree.leaves(in_blocks), jax.tree.leaves(at_once), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_row_that_sees_nothing_is_finite_and_so_is_its_gradient():
    arrays = jax.random.normal(jax.random.key(0), (3, 1, 4, 2, 8))
    nothing = jnp.zeros((1, 4, 4), bool)

    @jax.jit
    @jax.value_and_grad
    def total(arrays):
        return dot_product_attention(arrays[0], arrays[1], arrays[2], nothing).sum()

    value, gradient = total(arrays)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_softmax_is_float32_under_bfloat16():
    # 300 equal keys: a bfloat16 sum of weights stalls far below 1, a float32 one does not.
    query, key = jnp.zeros((1, 1, 1, 8), jnp.bfloat16), jnp.zeros((1, 300, 1, 8), jnp.bfloat16)
    mixed = dot_product_attention(query, key, jnp.ones_like(key), jnp.ones((1, 1, 300), bool))
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), 1.0, rtol=2**-8)


def test_rotation_makes_products_depend_on_the_distance_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def product(at_query, at_key):
        rotated = [
            rotate(x, *rotary_angles(jnp.array([[at]]), 16, 1e4))
            for x, at in ((query, at_query), (key, at_key))
        ]
        return float(jnp.vdot(*rotated))

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-2)
    assert product(0, 0) == pytest.approx(float(jnp.vdot(query, key)), abs=1e-6)


def test_norm_is_float32_under_bfloat16():
    x = jnp.asarray(jax.random.normal(jax.random.key(0), (3, 64)) * 100, jnp.bfloat16)
    norm = RMSNorm(1e-6, "norm")
    got = norm.apply(norm.init(jax.random.key(1), x), x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=2**-8)
