"""What a layer's parts do in bfloat16, and on a CPU."""

from __future__ import annotations

import re
from contextlib import nullcontext

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.layers import Projection, RMSNorm
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny import tiny_model

TOKENS, INNER, OUTER = 16_384, 4, 3


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_gradients_are_summed_over_many_tokens_in_float32(mean):
    layer = Projection((INNER,), (OUTER,), ("embed", "mlp"), use_bias=True)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1.0, size=(4, TOKENS // 4, INNER)), jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(mean, size=(4, TOKENS // 4, OUTER)), jnp.bfloat16)
    params = jax.tree.map(
        lambda box: box.value, layer.init(jax.random.key(0), x), is_leaf=lambda a: hasattr(a, "value")
    )

    @jax.jit
    @jax.grad
    def gradients(params):
        return jnp.vdot(layer.apply(params, x).astype(jnp.float32), cotangent.astype(jnp.float32))

    got = gradients(params)["params"]
    wide = np.asarray(cotangent, np.float64).reshape(TOKENS, OUTER)
    assert got["bias"].dtype == jnp.float32
    np.testing.assert_allclose(got["bias"], wide.sum(axis=0), rtol=1e-4)
    kernel = np.asarray(x, np.float64).reshape(TOKENS, INNER).T @ wide
    np.testing.assert_allclose(got["kernel"], kernel, rtol=2**-7, atol=1)


def test_every_norm_takes_the_eps_of_the_config():
    model, _ = tiny_model("qwen3", norm_eps=0.25)
    found = {}

    def noted(call, arguments, options, context):
        if isinstance(context.module, RMSNorm):
            found[context.module.name] = context.module.eps
        return call(*arguments, **options)

    tokens, layout = jnp.zeros((1, 3), jnp.int32), prompt_layout(jnp.array([3]), 3)
    with nn.intercept_methods(noted):
        jax.eval_shape(model.init, jax.random.key(0), tokens, layout)
    names = ("attention_norm", "query_norm", "key_norm", "mlp_norm", "final_norm")
    assert found == dict.fromkeys(names, 0.25)


def test_on_a_cpu_a_norm_of_one_row_of_tokens_sums_over_matrices():
    norm = RMSNorm(1e-6, "norm")
    x, cotangent = (jax.random.normal(jax.random.key(place), (1, 12, 8)) for place in (0, 1))
    params = {"params": {"scale": jax.random.uniform(jax.random.key(2), (8,))}}

    def gradients(mesh):
        def of(params, x):
            return jnp.vdot(norm.apply(params, x), cotangent)

        with nullcontext() if mesh is None else jax.set_mesh(mesh):
            lowered = jax.jit(jax.grad(of, argnums=(0, 1))).lower(params, x)
            sums = re.findall(r"stablehlo\.reduce\(.*?\((tensor<[^>]*>)", lowered.as_text())
            return set(sums), lowered.compile()(params, x)

    elsewhere, expected = gradients(None)
    on_cpu, got = gradients(make_mesh(MeshOptions(data=1), jax.devices()[:1]))
    assert "tensor<1x12x8xf32>" in elsewhere
    assert "tensor<12x8xf32>" in on_cpu
    assert "tensor<1x12x8xf32>" not in on_cpu
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
