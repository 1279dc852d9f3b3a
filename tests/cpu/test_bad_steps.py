"""Numbers gone bad: the update is skipped to the bit, counted, and the run stops after a few in a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prorank_jax.bad_steps import BadSteps
from prorank_jax.config import OptimizerOptions
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.train_state import apply_gradients, updates_made
from prorank_jax.types import TrainState

OPTIONS = OptimizerOptions(learning_rate=0.1, schedule="linear", warmup_steps=2)
PARAMS = {"w": jnp.arange(1.0, 7.0), "scale": jnp.ones(3)}
GOOD = {"w": jnp.full(6, 0.3), "scale": jnp.full(3, -0.2)}


def fresh(optimizer) -> TrainState:
    return TrainState(step=jnp.array(0), params=PARAMS, opt_state=optimizer.init(PARAMS), frozen={})


def advance(state, gradients, loss=1.0):
    optimizer = make_optimizer(OPTIONS, 10)
    return jax.jit(lambda *values: apply_gradients(*values, optimizer))(state, gradients, jnp.asarray(loss))


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        *(("one gradient", bad) for bad in (np.nan, np.inf, -np.inf, 1e30)),
        *(("loss", bad) for bad in (np.nan, np.inf, -np.inf)),
    ],
)
def test_a_skipped_update_leaves_every_bit_and_the_next_one_is_as_if_it_had_not_been(place, bad):
    start, _ = advance(fresh(make_optimizer(OPTIONS, 10)), GOOD)
    spoilt = GOOD | {"w": GOOD["w"].at[2].set(bad)} if place == "one gradient" else GOOD
    skipped, told = advance(start, spoilt, bad if place == "loss" else 1.0)
    assert float(told["skipped"]) == 1.0
    for ours, theirs in zip(jax.tree.leaves(skipped), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    after, told = advance(skipped, GOOD)
    expected, _ = advance(start, GOOD)
    assert float(told["skipped"]) == 0.0
    for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_schedule_counts_updates_that_were_made():
    optimizer, schedule = make_optimizer(OPTIONS, 10), make_schedule(OPTIONS, 10)
    state = fresh(optimizer)
    for gradients in (GOOD, {"w": GOOD["w"] * jnp.nan, "scale": GOOD["scale"]}, GOOD):
        state, _ = advance(state, gradients)
    assert int(updates_made(state, 1)) == 2
    assert float(schedule(updates_made(state, 1))) == pytest.approx(0.1)
    counting_nothing = fresh(optax.sgd(1.0))
    assert int(updates_made(counting_nothing.replace(step=jnp.array(4)), 3)) == 12


def test_it_gives_up_after_so_many_in_a_row_and_names_the_pairs():
    guard = BadSteps(3)
    pairs = ["q1/d1", "q2/d2"]
    for step, skipped in enumerate([1.0, 1.0, 0.0, 1.0, 0.5], start=1):
        guard.saw(step, skipped, lambda: pairs)
    with pytest.raises(ValueError, match=r"step 6: .* in 3 steps in a row .*'q1/d1', 'q2/d2'"):
        guard.saw(6, 1.0, lambda: pairs)


@pytest.mark.parametrize("computes_in_float32", [False, True])
def test_what_it_says_holds_for_a_partly_skipped_step_and_in_float32(computes_in_float32):
    guard = BadSteps(1, computes_in_float32=computes_in_float32)
    with pytest.raises(ValueError, match="A skipped update changes no parameters") as caught:
        guard.saw(1, 0.25, lambda: ["q1/d1"])
    assert "optimizer.learning_rate" in str(caught.value)
    assert ("float32" in str(caught.value)) != computes_in_float32
