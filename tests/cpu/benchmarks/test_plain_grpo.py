"""The arithmetic that stage 1's timed step is compared with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config import OptimizerOptions
from prorank_jax.optimizer import make_optimizer
from tests.cpu.benchmarks.peers import load_peer

SETTINGS = {"learning_rate": 1e-2, "b1": 0.9, "eps": 1e-8, "max_grad_norm": 1.0, "answers": {"end": 9}}


def _tree(scale, seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.normal(size=(3, 4)), jnp.float32) for name in ("a", "b")}


def _optax_update(params, gradients):
    """Parameters and state after the first update of a run's own optimizer."""
    rate = {name: SETTINGS[name] for name in ("learning_rate", "b1", "eps", "max_grad_norm")}
    optimizer = make_optimizer(OptimizerOptions(schedule="constant", warmup_steps=0, **rate), 10)
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    return jax.tree.map(jnp.add, params, updates), state


@pytest.mark.parametrize("scale", [1e-3, 10.0])  # below and above what is clipped
def test_the_first_update_and_its_moment_are_those_of_the_optimizer(scale):
    plain, params, gradients = load_peer("plain_grpo"), _tree(1.0, 0), _tree(scale, 1)
    expected, state = _optax_update(params, gradients)
    moved = plain.first_update(params, gradients, SETTINGS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), moved, expected)
    moment = state[1][0].mu
    assert plain.share_in_moment(gradients, moment, SETTINGS) == pytest.approx(1, rel=1e-5)
    half = jax.tree.map(lambda value: value / 2, moment)
    assert plain.share_in_moment(gradients, half, SETTINGS) == pytest.approx(0.5, rel=1e-5)


def test_without_a_gradient_nothing_is_missing_and_nothing_moves():
    plain, params, nothing = load_peer("plain_grpo"), _tree(1.0, 0), _tree(0.0, 1)
    assert plain.share_in_moment(nothing, nothing, SETTINGS) == 1
    jax.tree.map(np.testing.assert_array_equal, plain.first_update(params, nothing, SETTINGS), params)


def test_a_completion_is_said_up_to_its_first_end():
    rows = load_peer("plain_grpo").rows_of(
        [1, 2], np.array([[5, 9, 9], [9, 9, 9], [5, 6, 7]]), SETTINGS | {"width": 4}
    )
    assert rows.said.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert rows.tokens.tolist()[0] == [1, 2, 5, 9, 9, 0, 0]
