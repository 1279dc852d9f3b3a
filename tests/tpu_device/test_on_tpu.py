"""Splash attention, scoring and both stages' steps on a TPU in bfloat16, against float32 on the host.

The compiler for TPU can be asked without one (tests/tpu); what its programs compute only a TPU tells.
"""

from __future__ import annotations

import jax
import pytest

from tests.cuda.test_attention import CASES, HEADS, check_attention
from tests.device_steps import check_ranking, check_scores, check_training_step, check_warmup, prompts

SPLASH_CASES = CASES | {"a length that fills no block": ((300, 128), 0, 300)}


def tpu():
    return jax.local_devices(backend="tpu")[0]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("case", SPLASH_CASES.values(), ids=SPLASH_CASES)
def test_values_and_gradients_are_those_of_float32_on_the_host(case, heads):
    check_attention("splash", case, heads)


def test_scores_are_those_of_float32_on_the_host():
    check_scores(tpu(), "splash")


def test_the_warmup_gives_the_numbers_of_float32_on_the_host():
    check_warmup(tpu(), "splash", prompts())


def test_ranking_gives_the_numbers_of_float32_on_the_host():
    check_ranking(tpu(), "splash")


@pytest.mark.parametrize("which", ["1", "2"])
def test_a_training_step_is_finite_and_compiled_once(which):
    check_training_step(tpu(), "splash", which)
