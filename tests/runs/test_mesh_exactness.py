"""One run of several steps on one device and on eight simulated ones, in either stage: the same numbers.

On one device stage 1's prompts are padded, on eight they stand behind each other in rows.

What is compared, and how closely, follows from where rounding goes. Sums over devices are made in another
order, so gradients differ by a few float32 roundings, 1e-6 of a leaf's norm. AdamW divides each entry by its
own size: an entry that is nearly zero turns a rounding into a visible part of its step, so the way travelled
agrees less closely than the gradients it came from, and parameters more closely, because they move little.
The second low-rank factor begins at zero, so it is nothing but its way, and the first one's gradients are
proportional to it: with low-rank factors Adam's moments agree as closely as ways do.
Norms of leaves are compared, since single entries near zero have no relative precision.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

import prorank_jax.models.transformer
from tests.cpu.mesh_runs import (
    LORA,
    MESHES,
    STEPS,
    Case,
    Outcome,
    adam_state,
    eight_devices,
    one_device,
    run_on,
    worst_difference,
)

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")

RELATIVE = 1e-5
MOVEMENT = 1e-4
CASES = {
    "stage 1": Case(1),
    "stage 1 in parts": Case(1, parts=2),
    "stage 1 in parts, low-rank, two updates": Case(1, parts=2, updates=2, lora=LORA),
    "stage 2 in parts": Case(2, parts=2),
    "stage 2 in parts, low-rank": Case(2, parts=2, lora=LORA),
}


@cache
def alone(stage: int, updates: int, lora: bool) -> Outcome:
    """The run on one device, its batches computed at once."""
    return run_on(one_device(), Case(stage, updates=updates, **({"lora": LORA} if lora else {})))


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        *(("stage 1", sizes) for sizes in MESHES if sizes != (2, 4, 1)),
        ("stage 2 in parts", (2, 2, 2)),
        ("stage 1 in parts", (2, 4, 1)),
        ("stage 1 in parts, low-rank, two updates", (2, 2, 2)),
        ("stage 2 in parts, low-rank", (1, 2, 4)),
    ],
)
def test_a_run_on_a_mesh_is_the_run_on_one_device(case, sizes):
    wanted = CASES[case]
    expected = alone(wanted.stage, wanted.updates, wanted.lora == LORA)
    got = run_on(eight_devices(*sizes), wanted)
    for ours, theirs in zip(got.completions, expected.completions, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(got.metrics, expected.metrics, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=RELATIVE)
        assert ours == pytest.approx(theirs, rel=RELATIVE, abs=RELATIVE)
    assert worst_difference(got.first_gradients, expected.first_gradients) <= RELATIVE
    assert worst_difference(got.params, expected.params) <= RELATIVE
    assert worst_difference(got.movement, expected.movement) <= MOVEMENT
    ours, theirs = adam_state(got.opt_state), adam_state(expected.opt_state)
    assert int(ours.count) == int(theirs.count) == STEPS * wanted.updates
    moments = MOVEMENT if wanted.lora == LORA else RELATIVE
    assert worst_difference(ours.mu, theirs.mu) <= moments
    assert worst_difference(ours.nu, theirs.nu) <= moments
    np.testing.assert_allclose(got.scores, expected.scores, rtol=RELATIVE, atol=RELATIVE)


@pytest.mark.parametrize("case", ["stage 1", "stage 2 in parts"])
def test_a_run_whose_last_layer_is_trained_for_a_few_tokens_is_the_same(case, monkeypatch):
    """As accelerators train; here on a mesh of CPUs."""
    wanted = CASES[case]
    expected = alone(wanted.stage, wanted.updates, wanted.lora == LORA)
    monkeypatch.setattr(prorank_jax.models.transformer, "on_cpu", lambda: False)
    got = run_on(eight_devices(2, 2, 2), wanted)
    for ours, theirs in zip(got.completions, expected.completions, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert got.metrics[-1]["loss"] == pytest.approx(expected.metrics[-1]["loss"], rel=RELATIVE)
    assert worst_difference(got.first_gradients, expected.first_gradients) <= RELATIVE
    assert worst_difference(got.movement, expected.movement) <= MOVEMENT


def test_the_criteria_would_notice_a_part_that_is_left_out():
    """A run of which one row in thirty-two differs fails every one of them."""
    expected = alone(1, 1, False)
    other = run_on(one_device(), Case(1), changed_row=True)
    assert worst_difference(other.first_gradients, expected.first_gradients) > 100 * RELATIVE
    assert worst_difference(other.params, expected.params) > 10 * RELATIVE
    assert worst_difference(other.movement, expected.movement) > 10 * MOVEMENT
