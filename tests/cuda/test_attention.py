"""cuDNN's attention on a GPU in bfloat16 against plain attention: float32 on the CPU, bfloat16 on the GPU.

`check_attention` is for any accelerator's kernel: tests/tpu_device uses it too.

bfloat16 has 8 bits of precision, so a value may be off by 2⁻⁸ (0.4%) where it is stored: queries, softmax and
result make it about 1% of the largest value, gradients twice that. Beside that fixed bound, a kernel may be
at most half again as far from float32 as XLA's own attention in the same dtype is.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.models.attention import (
    PADDING_SEGMENT,
    TokenLayout,
    attend,
    prompt_layout,
    visibility_for,
)
from prorank_jax.models.fused import OneSequence
from prorank_jax.models.splash import PrefixCausal

VALUES, GRADIENTS = 0.01, 0.02
CASES = {
    "prompts": ((512, 1, 300), 0, 512),
    "an odd number of tokens": ((129, 77), 0, 129),
    "after a prefix of which one row has nothing": ((64, 0, 13), 64, 448),
}
HEADS = [(14, 2, 64), (16, 8, 128)]


def rows_of(lengths, prefix, own, heads, kv_heads, head_dim):
    rng = np.random.default_rng(own)
    shapes = ((own, heads), (prefix + own, kv_heads), (prefix + own, kv_heads))
    arrays = [rng.normal(size=(len(lengths), *shape, head_dim)).astype(np.float32) for shape in shapes]
    lengths = jnp.asarray(lengths, jnp.int32)
    if not prefix:
        return arrays, prompt_layout(lengths, own), None
    layout = prompt_layout(jnp.full_like(lengths, own - 3), own)
    after = TokenLayout(layout.positions + lengths[:, None], layout.segments, sequences=1)
    return arrays, after, prompt_layout(lengths, prefix)


@partial(jax.jit, static_argnums=0)
def values_and_gradients(implementation, arrays, layout, prefix):
    visible = visibility_for(implementation, layout, prefix)
    assert isinstance(visible, OneSequence | PrefixCausal) == (implementation != "xla")
    real = (layout.segments != PADDING_SEGMENT)[:, :, None, None]
    weights = jax.random.normal(jax.random.key(1), arrays[0].shape)

    def weighted(*arrays):
        mixed = jnp.where(real, attend(*arrays, visible).astype(jnp.float32), 0)
        return (mixed * weights).sum(), mixed

    gradients, mixed = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)(*arrays)
    return mixed, gradients


def on_cpu(arrays, layout, prefix):
    """In float32, of the same numbers that bfloat16 holds."""
    wide = [np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32) for array in arrays]
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(values_and_gradients("xla", wide, *jax.device_get((layout, prefix))))


def check_attention(kernel, case, heads):
    """Values and gradients are those of float32 on the host, as nearly as plain attention's are."""
    arrays, layout, prefix = rows_of(*case, *heads)
    exact = jax.tree.leaves(on_cpu(arrays, layout, prefix))
    half = [jnp.asarray(array, jnp.bfloat16) for array in arrays]

    def errors(implementation):
        got = jax.device_get(values_and_gradients(implementation, half, layout, prefix))
        found = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(got)]
        assert all(np.isfinite(leaf).all() for leaf in found)
        pairs = zip(found, exact, strict=True)
        return np.array([np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) for ours, theirs in pairs])

    ours, plain = errors(kernel), errors("xla")
    assert ours[0] <= VALUES
    assert (ours[1:] <= GRADIENTS).all()
    assert (ours <= 1.5 * plain + 1e-3).all()


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_float32_on_the_host(case, heads):
    check_attention("cudnn", case, heads)
