"""The learning rate of every update, and AdamW written out by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config import OptimizerOptions
from prorank_jax.optimizer import decayed_parameters, make_optimizer, make_schedule

UPDATES, WARMUP, PEAK, FINAL = 20, 4, 0.1, 0.2


def rates_of(schedule: str, warmup: int = WARMUP) -> list[float]:
    options = OptimizerOptions(
        learning_rate=PEAK, schedule=schedule, warmup_steps=warmup, final_fraction=FINAL
    )
    of_update = make_schedule(options, UPDATES)
    return [float(of_update(update)) for update in range(UPDATES + 1)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_to_the_peak_and_its_first_update_already_moves(schedule):
    rates = rates_of(schedule)
    np.testing.assert_allclose(rates[: WARMUP + 1], PEAK * np.arange(1, WARMUP + 2) / (WARMUP + 1), rtol=1e-5)


def test_decays():
    share = np.arange(UPDATES - WARMUP + 1) / (UPDATES - WARMUP)
    cosine = FINAL + (1 - FINAL) * (1 + np.cos(math.pi * share)) / 2
    np.testing.assert_allclose(rates_of("constant")[WARMUP:], PEAK, rtol=1e-6)
    np.testing.assert_allclose(rates_of("linear")[WARMUP:], PEAK * (1 - (1 - FINAL) * share), rtol=1e-5)
    np.testing.assert_allclose(rates_of("cosine")[WARMUP:], PEAK * cosine, rtol=1e-5)


def test_without_warmup_the_run_starts_at_the_peak():
    for schedule in ("constant", "linear", "cosine"):
        assert rates_of(schedule, warmup=0)[0] == pytest.approx(PEAK)


@pytest.mark.parametrize("warmup", [UPDATES, UPDATES + 3])
def test_a_warmup_as_long_as_the_run_is_refused(warmup):
    with pytest.raises(ValueError, match=rf"optimizer\.warmup_steps={warmup}: .*{UPDATES} updates"):
        rates_of("cosine", warmup)


def some_params(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "embedding": rng.normal(size=(5, 3)),
        "layer": {
            "query": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)},
            "norm": {"scale": rng.normal(size=3)},
        },
    }


def test_norms_and_biases_are_not_decayed():
    assert decayed_parameters(some_params(0)) == {
        "embedding": True,
        "layer": {"query": {"kernel": True, "bias": False}, "norm": {"scale": False}},
    }


def test_three_updates_equal_adamw_written_out():
    options = OptimizerOptions(
        learning_rate=PEAK, schedule="linear", warmup_steps=1, weight_decay=0.3, max_grad_norm=2.0
    )
    optimizer, schedule = make_optimizer(options, UPDATES), make_schedule(options, UPDATES)
    params = jax.tree.map(jnp.float32, some_params(0))
    state = optimizer.init(params)
    leaves, tree = jax.tree.flatten(some_params(0))
    decayed = jax.tree.leaves(decayed_parameters(params))
    first = [np.zeros_like(leaf) for leaf in leaves]
    second = [np.zeros_like(leaf) for leaf in leaves]
    for number in (1, 2, 3):
        gradients = some_params(number)
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradients), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        raw = jax.tree.leaves(gradients)
        norm = math.sqrt(sum((g**2).sum() for g in raw))
        assert norm > options.max_grad_norm
        rate = float(schedule(number - 1))
        for i, gradient in enumerate(g * options.max_grad_norm / norm for g in raw):
            first[i] = options.b1 * first[i] + (1 - options.b1) * gradient
            second[i] = options.b2 * second[i] + (1 - options.b2) * gradient**2
            direction = (first[i] / (1 - options.b1**number)) / (
                np.sqrt(second[i] / (1 - options.b2**number)) + options.eps
            )
            leaves[i] = leaves[i] - rate * (direction + options.weight_decay * decayed[i] * leaves[i])
    expected = jax.tree.unflatten(tree, leaves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)


def test_betas_and_eps_are_obeyed():
    options = OptimizerOptions(
        learning_rate=0.1,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1e9,
        b1=0.5,
        b2=0.75,
        eps=0.5,
    )
    optimizer = make_optimizer(options, 5)
    params = {"kernel": jnp.array([1.0])}
    state, first, second = optimizer.init(params), 0.0, 0.0
    for number, gradient in enumerate((2.0, -1.0), start=1):
        updates, state = optimizer.update({"kernel": jnp.array([gradient])}, state, params)
        first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
        expected = -0.1 * (first / (1 - 0.5**number)) / (math.sqrt(second / (1 - 0.75**number)) + 0.5)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)
