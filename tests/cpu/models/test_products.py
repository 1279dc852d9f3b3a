"""Products in bfloat16 on a CPU: their forms, gradients, and what the compiler makes of them."""

from __future__ import annotations

import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.products import matrix_product, product_over_rows, wide_on_cpu, wide_product
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.sharding import logical_axes, logical_rules, make_mesh

ROUNDING = 2.0**-8  # of bfloat16, relative
PRODUCTS = {
    "matrix_product": (matrix_product, (7, 5), (5, 3), "mk,kn->mn"),
    "wide_product": (wide_product, (2, 7, 5), (3, 5), "amk,nk->amn"),
    "product_over_rows": (product_over_rows, (2, 7, 5), (2, 7, 3), "btm,btn->bmn"),
}


@pytest.fixture
def one_cpu():
    return make_mesh(MeshOptions(data=1), jax.devices()[:1])


@pytest.fixture
def on_one_cpu(one_cpu):
    with jax.set_mesh(one_cpu):
        yield


def _factors(name, dtype):
    _, left, right, _ = PRODUCTS[name]
    draw = np.random.default_rng(3).normal
    return tuple(jnp.asarray(draw(size=shape), jnp.bfloat16).astype(dtype) for shape in (left, right))


def _loss(product):
    def loss(left, right):
        result = product(left, right)
        return jnp.sum(jnp.sin(result.astype(jnp.float32))), result

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.usefixtures("on_one_cpu")
def test_value_and_gradients_are_those_of_float32_rounded(name):
    product, _, _, equation = PRODUCTS[name]
    (_, value), gradients = _loss(product)(*_factors(name, jnp.bfloat16))
    exact = _loss(lambda left, right: jnp.einsum(equation, left, right, precision="highest"))
    (_, expected), expected_gradients = exact(*_factors(name, jnp.float32))
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients)
    np.testing.assert_allclose(value.astype(jnp.float32), expected, atol=4 * ROUNDING, rtol=2 * ROUNDING)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=8 * ROUNDING, rtol=4 * ROUNDING)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.usefixtures("on_one_cpu")
def test_float32_stays_what_it_was_to_the_bit(name):
    product, _, _, equation = PRODUCTS[name]
    factors = _factors(name, jnp.float32)
    np.testing.assert_array_equal(
        jax.jit(product)(*factors), jax.jit(lambda left, right: jnp.einsum(equation, left, right))(*factors)
    )


@pytest.mark.usefixtures("on_one_cpu")
def test_a_nan_is_not_lost_in_a_branch():
    left, right = _factors("product_over_rows", jnp.bfloat16)
    product = jax.jit(product_over_rows)(left, right.at[0, 0, 0].set(jnp.nan))
    assert jnp.isnan(product[0, :, 0]).all()
    assert jnp.isfinite(product[1]).all()


@pytest.mark.usefixtures("on_one_cpu")
def test_only_bfloat16_on_a_cpu_becomes_wide():
    assert jax.jit(wide_on_cpu)(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32
    assert jax.jit(wide_on_cpu)(jnp.ones(3, jnp.float16)).dtype == jnp.float16


def test_elsewhere_it_stays_narrow():
    assert jax.jit(wide_on_cpu)(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16  # no mesh, no CPU in sight


def _gradient_step(config, compute_dtype, remat, mesh):
    model = Transformer(config, compute_dtype, remat)
    around = (
        nullcontext() if mesh is None else logical_axes(logical_rules(abstract_params(model), mesh), mesh)
    )
    lengths = jnp.array([9, 6])

    def loss(params, tokens):
        with around:
            hidden, _ = model.apply({"params": params}, tokens, prompt_layout(lengths, 9))
            logits = model.apply({"params": params}, hidden[:, 4:6], method="answer_logits")
        return jax.nn.logsumexp(logits, axis=-1).mean()

    return jax.jit(jax.grad(loss))


def _error(got, wanted):
    return np.sqrt(sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(got, wanted, strict=True)))


def test_gradients_of_the_whole_model_are_as_near_to_float32_as_elsewhere(qwen2, one_cpu):
    tokens = jnp.asarray(qwen2.tokens[:2, :9])
    narrow = jax.tree.leaves(_gradient_step(qwen2.config, "bfloat16", "none", one_cpu)(qwen2.params, tokens))
    exact = jax.tree.leaves(_gradient_step(qwen2.config, "float32", "none", one_cpu)(qwen2.params, tokens))
    elsewhere = jax.tree.leaves(_gradient_step(qwen2.config, "bfloat16", "none", None)(qwen2.params, tokens))
    assert all(leaf.dtype == jnp.float32 for leaf in narrow)
    size = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in exact))
    assert 0 < _error(narrow, exact) <= 0.1 * size
    assert _error(narrow, exact) <= 1.2 * _error(elsewhere, exact)


@pytest.mark.parametrize("remat", ["mlp", "gate", "full", "dots_no_batch"])
def test_what_is_computed_again_changes_nothing(qwen2, one_cpu, remat):
    tokens = jnp.asarray(qwen2.tokens[:2, :9])
    kept, again = (_gradient_step(qwen2.config, "bfloat16", r, one_cpu) for r in ("none", remat))
    both = zip(
        jax.tree.leaves(kept(qwen2.params, tokens)), jax.tree.leaves(again(qwen2.params, tokens)), strict=True
    )
    for first, second in both:
        assert jnp.linalg.norm(first - second) <= ROUNDING * jnp.linalg.norm(first)


def test_layers_stack_no_bfloat16(qwen2, one_cpu):
    """XLA's CPU backend would convert all layers' numbers for each layer: see `remat.named`."""
    step = _gradient_step(qwen2.config, "bfloat16", "mlp", one_cpu)
    text = step.lower(qwen2.params, jnp.asarray(qwen2.tokens[:2, :9])).as_text()
    updates = re.findall(r"dynamic_update_slice.*->\s*tensor<([^>]*)>", text)
    assert updates
    assert not [shape for shape in updates if shape.endswith("bf16")]
    assert [shape for shape in updates if shape.endswith("ui16")], "what `mlp` keeps is stacked as bits"
