"""Keys and values that several rows share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.models.key_values import for_rows


@pytest.mark.parametrize("rows", [2, 6])
def test_rows_get_what_they_share_and_its_gradient_is_the_sum_of_theirs(rows):
    rng = np.random.default_rng(0)
    shared, weights = rng.normal(size=(2, 3, 1, 4)), rng.normal(size=(rows, 3, 1, 4))
    given, pull_back = jax.vjp(lambda values: for_rows(values, rows), jnp.asarray(shared, jnp.float32))
    np.testing.assert_array_equal(given, np.repeat(shared.astype(np.float32), rows // 2, axis=0))
    (gradient,) = pull_back(jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(gradient, weights.reshape(2, rows // 2, 3, 1, 4).sum(1), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_summed_in_float32():
    """A bfloat16 sum of ones stops at 256."""
    shared = jnp.ones((2, 2, 1, 4), jnp.bfloat16)
    given, pull_back = jax.vjp(lambda values: for_rows(values, 1024), shared)
    (gradient,) = pull_back(jnp.ones_like(given))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(np.float32), np.full(shared.shape, 512, np.float32))
