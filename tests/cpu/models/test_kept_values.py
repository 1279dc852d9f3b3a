"""What the forward pass keeps for the backward pass of plain attention: no softmax and no logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from prorank_jax.config import REMAT_POLICIES
from prorank_jax.models import plain, row_parts
from prorank_jax.models.attention import prompt_layout
from tests.cpu.tiny import tiny_model

WIDTH = 11  # no other size of the model is like it


def kept_for_the_backward_pass(remat: str) -> list[tuple[int, ...]]:
    """Shapes of the floating-point arrays in the closure that the backward pass is."""
    model, params = tiny_model(remat=remat)
    tokens = jnp.zeros((3, WIDTH), jnp.int32)

    def loss(params):
        layout = prompt_layout(jnp.array([WIDTH, 4, 1]), WIDTH)
        return model.apply({"params": params}, tokens, layout)[0].sum()

    closure = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return [leaf.shape for leaf in jax.tree.leaves(closure) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def query_by_key(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [shape for shape in shapes if shape[-2:] == (WIDTH, WIDTH)]


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_no_policy_keeps_a_number_for_each_query_and_key(remat):
    shapes = kept_for_the_backward_pass(remat)
    assert shapes
    assert not query_by_key(shapes)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_nor_when_rows_come_one_after_the_other(remat, monkeypatch):
    monkeypatch.setattr(row_parts, "rows_at_once", lambda *_: 1)
    with jax.set_mesh(Mesh(np.array(jax.devices()[:1]), ("data",))):
        shapes = kept_for_the_backward_pass(remat)
    assert shapes
    assert not query_by_key(shapes)


def test_attention_left_to_itself_would_keep_its_softmax(monkeypatch):
    monkeypatch.setattr(plain, "_attend", lambda *given: plain._attend_forward(*given)[0])
    assert query_by_key(kept_for_the_backward_pass("none"))


def test_computing_the_softmax_again_changes_no_gradient(monkeypatch):
    model, params = tiny_model()
    tokens = jnp.arange(2 * WIDTH, dtype=jnp.int32).reshape(2, WIDTH)
    weights = np.random.default_rng(0).normal(size=(2, WIDTH, 16)).astype(np.float32)

    def gradients():
        def loss(params):
            layout = prompt_layout(jnp.array([WIDTH, 4]), WIDTH)
            return (model.apply({"params": params}, tokens, layout)[0] * weights).sum()

        return jax.jit(jax.grad(loss))(params)

    ours = gradients()
    monkeypatch.setattr(plain, "_attend", lambda *given: plain._attend_forward(*given)[0])
    for lean, kept in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients()), strict=True):
        np.testing.assert_allclose(lean, kept, rtol=1e-5, atol=1e-6 * np.abs(kept).max())
