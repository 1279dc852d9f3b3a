"""Splash attention in Pallas' interpreter against plain attention: values, gradients, masks, padding."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.models import splash
from prorank_jax.models.attention import (
    PADDING_SEGMENT,
    TokenLayout,
    completion_layout,
    concatenate_layouts,
    prompt_layout,
    visibility,
    visibility_for,
)
from prorank_jax.models.splash import LANES, PrefixCausal
from tests.cpu.models.attention_rows import assert_close, layouts, random_rows, values_and_gradients

INTERPRETED = "splash_interpreted"


CASES = {
    "prompts": ((200, 1), 0, 1, 200),
    "after a prefix of which one row has nothing": ((50, 0), 50, 1, 150),
    "a group after its prompt": ((30, 7), 30, 19, 7),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_plain_attention(case):
    rows = random_rows(*case)
    assert_close(values_and_gradients(INTERPRETED, rows), values_and_gradients("xla", rows), 2e-6)


@pytest.mark.parametrize("fused_blocks", [4, 1])
def test_several_blocks_of_keys_fused_or_not(fused_blocks, monkeypatch):
    monkeypatch.setattr(splash, "LARGEST_BLOCK", 128)
    monkeypatch.setattr(splash, "MOST_FUSED_BLOCKS", fused_blocks)
    rows = random_rows((100, 12), 100, 1, 260, heads=2, kv_heads=1)
    jax.clear_caches()  # the sizes of blocks are no argument
    assert_close(values_and_gradients(INTERPRETED, rows), values_and_gradients("xla", rows), 2e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(14, 2, 64), (2, 2, 128)])
def test_bfloat16_is_as_near_to_float32_as_plain_attention_is(heads, kv_heads, head_dim):
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    rows = random_rows((128, 90), 0, 1, 128, **sizes, dtype="bfloat16")
    wide = rows._replace(arrays=tuple(array.astype(jnp.float32) for array in rows.arrays))
    exact = jax.tree.leaves(values_and_gradients("xla", wide))

    def errors(implementation: str) -> np.ndarray:
        got = jax.tree.leaves(values_and_gradients(implementation, rows))
        return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, exact, strict=True)])

    assert (errors(INTERPRETED) <= 1.5 * errors("xla")).all()


def test_what_stands_in_padded_slots_changes_nothing():
    rows = random_rows((20, 60), 60, 1, 140)
    slots = np.arange(200) < 60
    hidden = slots[None] & (np.arange(200)[None] >= np.array([20, 60])[:, None])  # [B, S]
    query, key, value = rows.arrays
    junk = [jnp.where(hidden[:, :, None, None], 1e4, array) for array in (key, value)]
    mixed, gradients = values_and_gradients(INTERPRETED, rows)
    mixed_with_junk, gradients_with_junk = values_and_gradients(
        INTERPRETED, rows._replace(arrays=(query, *junk))
    )
    np.testing.assert_array_equal(mixed_with_junk, mixed)
    np.testing.assert_array_equal(gradients_with_junk[0], gradients[0])
    for gradient in (*gradients[1:], *gradients_with_junk[1:]):
        np.testing.assert_array_equal(np.asarray(gradient)[hidden], 0.0)


@partial(jax.jit, static_argnums=(1, 2, 3))
def plainly_visible(lengths: jax.Array, prefix: int, sequences: int, width: int) -> tuple[jax.Array, ...]:
    """The mask of plain attention [B, Q, S], which queries are no padding, and which prefix slots."""
    layout, of_prefix = layouts(lengths, prefix, sequences, width)
    keys = layout if of_prefix is None else concatenate_layouts(of_prefix, layout)
    pattern = visibility_for(INTERPRETED, layout, of_prefix)
    assert isinstance(pattern, PrefixCausal)
    assert pattern.sequences == sequences
    in_prefix = jnp.zeros((len(lengths), 0), bool) if of_prefix is None else pattern.prefix_visible
    return visibility(layout, keys), layout.segments != PADDING_SEGMENT, in_prefix


@pytest.mark.parametrize(
    ("prefix", "sequences", "width"), [(0, 1, 150), (37, 1, 128), (128, 16, 9), (5, 40, 4), (300, 1, 600)]
)
@given(data=st.data())
@settings(max_examples=8)
def test_the_kernel_sees_what_the_plain_mask_shows(data, prefix, sequences, width):
    some_length = st.integers(0 if prefix else 1, prefix or width)
    lengths = np.array(data.draw(st.tuples(some_length, some_length)), np.int32)
    plain, real, in_prefix = map(np.asarray, plainly_visible(lengths, prefix, sequences, width))
    queries, keys = plain.shape[1:]
    slots = splash._blocks(queries)[1], splash._blocks(keys)[1]
    seen = np.repeat(splash._static_mask(queries, keys, *slots, sequences)[:, :][None], 2, axis=0)
    seen[:, :, :prefix] &= in_prefix[:, None]
    np.testing.assert_array_equal(seen[:, :queries, :keys][real], plain[real])
    assert not seen[:, :queries, keys:][real].any()
    assert seen.any(axis=-1).all()  # a softmax over nothing would be NaN


@given(st.integers(1, 5000))
def test_blocks_hold_their_length_with_little_to_spare(length):
    block, slots = splash._blocks(length)
    assert block % LANES == 0
    assert block <= splash.LARGEST_BLOCK
    assert slots % block == 0
    assert length <= slots < length + LANES * (slots // block)


def test_few_queries_and_unordered_ones_use_plain_attention():
    def uses_splash(implementation: str, layout: TokenLayout, prefix: TokenLayout | None) -> bool:
        visible = jax.eval_shape(partial(visibility_for, implementation), layout, prefix)
        return isinstance(visible, PrefixCausal)

    lengths = jnp.array([9])
    prompt, group = prompt_layout(lengths, 600), completion_layout(lengths, 16, 1)
    decoding = TokenLayout(jnp.zeros((1, 200), jnp.int32), jnp.ones((1, 200), jnp.int32))
    many = completion_layout(lengths, 16, 8)
    assert uses_splash("splash", prompt, None)
    assert uses_splash("splash", many, prompt)
    for layout, prefix in ((group, prompt), (decoding, prompt), (many, concatenate_layouts(prompt, group))):
        assert not uses_splash("splash", layout, prefix)
    assert not uses_splash("xla", prompt, None)
