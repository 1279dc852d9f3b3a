"""Who sees whom, and attention against a plain NumPy loop."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.aot.jaxpr_flops import count_flops
from prorank_jax.models import plain
from prorank_jax.models.attention import (
    PADDING_SEGMENT,
    attend,
    completion_layout,
    concatenate_layouts,
    prompt_layout,
    visibility,
    visibility_for,
)
from prorank_jax.models.layers import RMSNorm
from prorank_jax.models.plain import CausalBlocks, dot_product_attention
from prorank_jax.models.rotary import rotary_angles, rotate

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
    monkeypatch.setattr(plain, "LONGEST_AT_ONCE", 4)
    monkeypatch.setattr(plain, "QUERY_BLOCK", 5)
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


def test_the_powers_of_the_rotation_are_not_left_to_the_device():
    """A TPU's are off in the sixth digit, which 32,000 positions multiply."""
    angles = jax.jit(lambda positions: rotary_angles(positions, 64, 1e5))
    positions = jnp.arange(4, dtype=jnp.int32)[None]
    assert not {"pow", "exp", "power"} & {
        equation.primitive.name for equation in jax.make_jaxpr(rotary_angles, (1, 2))(positions, 64, 1e5).eqns
    }
    wanted = np.arange(4)[:, None] * 1e5 ** (-np.arange(32) / 32)
    np.testing.assert_allclose(angles(positions)[0][0], np.cos(wanted), atol=1e-6)
    np.testing.assert_allclose(angles(positions)[1][0], np.sin(wanted), atol=1e-6)


def test_norm_is_float32_under_bfloat16():
    x = jnp.asarray(jax.random.normal(jax.random.key(0), (3, 64)) * 100, jnp.bfloat16)
    norm = RMSNorm(1e-6, "norm")
    got = norm.apply(norm.init(jax.random.key(1), x), x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=2**-8)


def _positions_seen(lengths, width, prefix_lengths, prefix_width):
    """Layouts of rows that follow a prefix, or of rows alone where its width is 0."""
    own = prompt_layout(lengths, width)
    if not prefix_width:
        return own, None
    own = dataclasses.replace(own, positions=own.positions + prefix_lengths[:, None])
    return own, prompt_layout(prefix_lengths, prefix_width)


@pytest.mark.parametrize(("width", "prefix_width"), [(9, 0), (8, 7)])
@pytest.mark.parametrize("query_block", [512, 2], ids=["blocks at once", "blocks in turn"])
@pytest.mark.parametrize("longest_at_once", [2048, 4])
def test_causal_blocks_give_values_and_gradients_of_the_whole_mask(
    width, prefix_width, query_block, longest_at_once, monkeypatch
):
    monkeypatch.setattr(plain, "CAUSAL_BLOCK", 1)
    monkeypatch.setattr(plain, "MOST_CAUSAL_BLOCKS", 3)
    monkeypatch.setattr(plain, "MOST_BLOCKS_OF_LONG_ROWS", 2)
    monkeypatch.setattr(plain, "LONGEST_AT_ONCE", longest_at_once)
    monkeypatch.setattr(plain, "QUERY_BLOCK", query_block)
    rng = np.random.default_rng(width)

    @jax.jit
    def in_both_ways(arrays, weight, lengths, prefix_lengths):
        own, prefix = _positions_seen(lengths, width, prefix_lengths, prefix_width)
        blocks = visibility_for("xla", own, prefix)
        assert isinstance(blocks, CausalBlocks)
        whole = visibility(own, own if prefix is None else concatenate_layouts(prefix, own))
        real = (own.segments != PADDING_SEGMENT)[:, :, None, None]

        def weighted(arrays, visible):
            mixed = jnp.where(real, attend(*arrays, visible), 0.0)
            return (mixed * weight).sum(), mixed

        differentiate = jax.grad(weighted, has_aux=True)
        return differentiate(arrays, blocks), differentiate(arrays, whole)

    for _ in range(20):
        sizes = [(2, width, 4, 8), *[(2, prefix_width + width, 2, 8)] * 2, (2, width, 4, 8)]
        *arrays, weight = (rng.normal(size=size).astype(np.float32) for size in sizes)
        lengths = rng.integers(1, width + 1, 2).astype(np.int32)
        prefix_lengths = rng.integers(0, prefix_width + 1, 2).astype(np.int32)
        got, expected = in_both_ways(arrays, weight, lengths, prefix_lengths)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_what_stands_at_padding_changes_no_real_token(monkeypatch):
    monkeypatch.setattr(plain, "CAUSAL_BLOCK", 4)
    rng = np.random.default_rng(0)
    lengths, prefix_lengths = jnp.array([9, 3], jnp.int32), jnp.array([2, 5], jnp.int32)
    own, prefix = _positions_seen(lengths, 10, prefix_lengths, 6)
    sizes = [(2, 10, 4, 8), (2, 16, 2, 8), (2, 16, 2, 8)]
    arrays = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]
    real = np.concatenate([prefix.segments, own.segments], axis=1) != PADDING_SEGMENT
    seen = visibility_for("xla", own, prefix)
    garbage = [jnp.where(real[:, -array.shape[1] :, None, None], array, 1e3) for array in arrays]
    jitted = jax.jit(lambda arrays: attend(*arrays, seen))
    before, after = jitted(arrays), jitted(garbage)
    np.testing.assert_array_equal(before[0, :9], after[0, :9])
    np.testing.assert_array_equal(before[1, :3], after[1, :3])


@pytest.mark.parametrize(
    ("width", "blocks"), [(256, 2), (512, 4), (1024, 8), (2048, 8), (4096, 16), (16384, 16)]
)
def test_causal_blocks_leave_out_what_they_say(width, blocks):
    shapes = [jax.ShapeDtypeStruct((1, width, heads, 8), jnp.float32) for heads in (4, 2, 2)]
    traced = jax.make_jaxpr(partial(attend, visible=CausalBlocks(None)))(*shapes)
    left_out = (blocks - 1) / (2 * blocks)
    assert count_flops(traced) == 4 * 4 * 8 * width**2 * (1 - left_out)


@pytest.mark.parametrize("width", [2048, 8192, 32768])
def test_rows_of_any_length_have_the_logits_of_a_query_block_at_most(width):
    shapes = [jax.ShapeDtypeStruct((1, width, heads, 8), jnp.float32) for heads in (4, 2, 2)]
    text = jax.jit(partial(attend, visible=CausalBlocks(None))).lower(*shapes).as_text()
    logits = {int(rows) * int(keys) for rows, keys in re.findall(r"tensor<1x2x(\d+)x(\d+)xf32>", text)}
    assert max(logits) <= 2 * plain.QUERY_BLOCK * width
