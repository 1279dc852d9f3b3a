"""The rows given to cuDNN's attention, with jax's own in its place, against plain attention."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.config import MeshOptions
from prorank_jax.models.attention import (
    TokenLayout,
    check_head_size,
    check_implementation,
    completion_layout,
    concatenate_layouts,
    prompt_layout,
    visibility_for,
)
from prorank_jax.models.fused import SHORTEST_ROW, OneSequence, position_order
from prorank_jax.models.reorder import reorder
from prorank_jax.reranker import Reranker
from prorank_jax.sharding import make_mesh
from tests.cpu.models.attention_rows import assert_close, random_rows, values_and_gradients

EMULATED = "cudnn_emulated"
CASES = {
    "prompts": ((100, 1, 63), 0, 1, 100),
    "after a prefix of which one row has nothing": ((50, 0, 13), 50, 1, 80),
    "after a prefix that is longer": ((150, 1), 150, 1, 70),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_plain_attention(case):
    rows = random_rows(*case)
    assert_close(values_and_gradients(EMULATED, rows), values_and_gradients("xla", rows), 2e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(14, 2, 64), (2, 2, 128)])
def test_bfloat16_is_as_near_to_float32_as_plain_attention_is(heads, kv_heads, head_dim):
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    rows = random_rows((30, 9), 30, 1, 70, **sizes, dtype="bfloat16")
    wide = rows._replace(arrays=tuple(array.astype(jnp.float32) for array in rows.arrays))
    exact = jax.tree.leaves(values_and_gradients("xla", wide))

    def errors(implementation: str) -> np.ndarray:
        got = jax.tree.leaves(values_and_gradients(implementation, rows))
        return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, exact, strict=True)])

    assert (errors(EMULATED) <= 1.5 * errors("xla")).all()


def test_what_stands_in_padded_slots_changes_nothing():
    rows = random_rows((20, 60), 60, 1, 80)
    slots = np.arange(140)[None]
    hidden = (slots < 60) & (slots >= np.array([20, 60])[:, None])  # [B, S]
    query, key, value = rows.arrays
    junk = [jnp.where(hidden[:, :, None, None], 1e4, array) for array in (key, value)]
    mixed, gradients = values_and_gradients(EMULATED, rows)
    with_junk = values_and_gradients(EMULATED, rows._replace(arrays=(query, *junk)))
    np.testing.assert_array_equal(with_junk[0], mixed)
    np.testing.assert_array_equal(with_junk[1][0], gradients[0])
    for gradient in (*gradients[1:], *with_junk[1][1:]):
        np.testing.assert_array_equal(np.asarray(gradient)[hidden], 0.0)


def test_a_row_of_padding_alone_is_finite():
    rows = random_rows((80, 80), 0, 1, 80)
    empty = rows._replace(layout=prompt_layout(jnp.array([80, 0]), 80))
    mixed, gradients = values_and_gradients(EMULATED, empty)
    assert all(np.isfinite(array).all() for array in (mixed, *gradients))


@given(st.integers(0, 9), st.integers(1, 9), st.data())
def test_the_order_by_position_puts_a_prefix_before_the_row_and_its_padding_last(prefix, own, data):
    real = np.array(data.draw(st.lists(st.integers(0, prefix), min_size=1, max_size=3)), np.int32)
    sources, targets = map(np.asarray, position_order(jnp.asarray(real), prefix, own))
    for row, count in enumerate(real):
        expected = [*range(count), *range(prefix, prefix + own), *range(count, prefix)]
        assert sources[row].tolist() == expected
        assert targets[row][sources[row]].tolist() == list(range(prefix + own))


def test_the_gradient_of_a_reordering_is_that_of_a_gather():
    rows = jax.random.normal(jax.random.key(0), (2, 7, 2, 3))
    sources, targets = position_order(jnp.array([2, 0]), 3, 4)

    def weighted(gather, rows):
        return (gather(rows) ** 2 * jnp.arange(7)[None, :, None, None]).sum()

    ours = jax.grad(partial(weighted, lambda rows: reorder(rows, sources, targets)))(rows)
    plain = jax.grad(
        partial(weighted, lambda rows: jnp.take_along_axis(rows, sources[:, :, None, None], axis=1))
    )(rows)
    np.testing.assert_array_equal(ours, plain)


def test_short_rows_groups_and_unordered_rows_use_plain_attention():
    def is_fused(implementation: str, layout: TokenLayout, prefix: TokenLayout | None) -> bool:
        visible = jax.eval_shape(partial(visibility_for, implementation), layout, prefix)
        return isinstance(visible, OneSequence)

    lengths = jnp.array([9])
    prompt, group = prompt_layout(lengths, 600), completion_layout(lengths, 16, 8)
    decoding = TokenLayout(jnp.zeros((1, 200), jnp.int32), jnp.ones((1, 200), jnp.int32))
    assert is_fused("cudnn", prompt, None)
    assert is_fused("cudnn", prompt, prompt)
    plain = [
        (group, prompt),
        (decoding, prompt),
        (prompt, concatenate_layouts(prompt, group)),
        (prompt_layout(lengths, SHORTEST_ROW - 1), None),
    ]
    assert not any(is_fused("cudnn", *layouts) for layouts in plain)
    assert not is_fused("xla", prompt, None)
    assert not is_fused("splash", prompt, None)


def test_cudnn_is_refused_before_any_compute():
    class Gpu:
        platform = "gpu"

    class Gpus:
        devices = np.array([Gpu()])

    cpu, gpu = make_mesh(MeshOptions(), jax.devices()[:1]), Gpus()
    with pytest.raises(ValueError, match=r"model\.attention='cudnn': runs on NVIDIA GPUs only, not on cpu"):
        check_implementation("cudnn", "bfloat16", cpu)
    with pytest.raises(ValueError, match=r"computes in bfloat16, not in float32; choose"):
        check_implementation("cudnn", "float32", gpu)
    check_implementation("cudnn", "bfloat16", gpu)
    for size in (4, 63, 256):
        with pytest.raises(ValueError, match=f"heads have {size} dimensions"):
            check_head_size("cudnn", size)
        check_head_size("xla", size)
    check_head_size("cudnn", 128)
    with pytest.raises(ValueError, match=r"model\.attention='cudnn'"):
        Reranker.from_pretrained("no such model is looked for", attention="cudnn", compute_dtype="bfloat16")
