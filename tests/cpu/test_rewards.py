"""Rewards on hand-made completions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from prorank_jax.rewards import answer_reward, is_answer, is_correct, is_formatted
from tests.cpu.tiny import ANSWERS

ZERO, ONE, END, OTHER = ANSWERS.zero, ANSWERS.one, ANSWERS.end, 1
COMPLETIONS = jnp.array([[[ONE, END], [ONE, OTHER], [ZERO, END], [OTHER, END]]] * 2)
LABELS = jnp.array([1, 0])


def test_parts():
    np.testing.assert_array_equal(is_answer(COMPLETIONS, ANSWERS), [[1, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(is_formatted(COMPLETIONS, ANSWERS), [[1, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(is_formatted(COMPLETIONS[..., :1], ANSWERS), [[1, 1, 1, 0]] * 2)
    np.testing.assert_array_equal(is_correct(COMPLETIONS, LABELS, ANSWERS), [[1, 1, 0, 0], [0, 0, 1, 0]])


def test_reward_adds_weighted_parts_under_jit():
    reward = jax.jit(answer_reward(ANSWERS, format_weight=0.5, correct_weight=2.0))
    expected = [[2.5, 2.25, 0.5, 0.0], [0.5, 0.25, 2.5, 0.0]]
    np.testing.assert_allclose(reward(COMPLETIONS, LABELS), expected)
