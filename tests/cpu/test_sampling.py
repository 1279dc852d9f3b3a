"""The inverse-CDF sampler against the softmax it draws from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from prorank_jax.sampling import sample_categorical


def uniform(seed: int, rows: int, draws: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (rows, draws))


@pytest.mark.parametrize("vocabulary", [2, 7, 256, 257, 1000])
def test_frequencies_are_the_softmax(vocabulary):
    logits = 2 * jax.random.normal(jax.random.key(vocabulary), (2, vocabulary))
    draws = 40_000
    tokens = np.asarray(jax.jit(sample_categorical)(uniform(1, 2, draws), logits))
    probabilities = np.asarray(jax.nn.softmax(logits), float)
    for row in range(2):
        expected = probabilities[row] / probabilities[row].sum() * draws
        counts = np.bincount(tokens[row], minlength=vocabulary)
        common = expected >= 5
        observed = np.append(counts[common], counts[~common].sum())
        wanted = np.append(expected[common], expected[~common].sum())
        keep = wanted > 0
        assert chisquare(observed[keep], wanted[keep]).pvalue > 1e-4


def test_impossible_tokens_are_never_drawn():
    logits = jnp.full((3, 1000), -jnp.inf).at[0, 0].set(1.0).at[1, 999].set(-4.0).at[2, 255].set(0.0)
    tokens = np.asarray(sample_categorical(uniform(0, 3, 5000), logits))
    assert (tokens == np.array([[0], [999], [255]])).all()


def test_no_number_near_a_boundary_draws_an_impossible_token():
    """Compiled, the difference of target and start is fused with a product, and can be below 0."""
    rng = np.random.default_rng(0)
    jax.config.update("jax_disable_most_optimizations", False)  # else nothing is fused; see fixtures.py
    draw = jax.jit(sample_categorical)
    for _ in range(30):
        possible = np.sort(rng.choice(49_152, rng.integers(5, 200), replace=False))
        logits = np.full(49_152, -1e4, np.float32)
        logits[possible] = rng.normal(0, 2, len(possible))
        shares = np.cumsum(np.exp(logits - logits.max(), dtype=float))
        ends = np.unique(np.round(shares[possible] / shares[-1] * 2**23))
        near = np.clip((ends[:, None] + np.arange(-4, 5)).ravel(), 0, 2**23 - 1) / 2**23
        assert np.isin(draw(near.astype(np.float32), logits), possible).all()


def test_huge_vocabulary_with_one_sure_token():
    logits = jnp.full((1, 151_936), -10.0).at[0, 151_643].set(30.0)
    tokens = np.asarray(sample_categorical(uniform(0, 1, 1000), logits))
    assert (tokens == 151_643).all()
