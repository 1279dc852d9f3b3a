"""Rewards of sampled answers: pure functions of token ids, so that they run inside the jitted step.

A reward function takes completions [B, G, L] int32 and labels [B] int32 and returns [B, G] float32.
`answer_reward` builds the default one; any other can be passed to `steps.make_grpo_step`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Array

RewardFunction = Callable[[Array, Array], jax.Array]


def is_answer(tokens: Array, answers: AnswerTokens) -> jax.Array:
    """Whether a completion [..., L] starts with `0` or `1`: [...] bool."""
    return (tokens[..., 0] == answers.zero) | (tokens[..., 0] == answers.one)


def is_formatted(tokens: Array, answers: AnswerTokens) -> jax.Array:
    """Whether a completion [..., L] is exactly `0` or `1`, and ends there if it has room to: [...] bool."""
    starts = is_answer(tokens, answers)
    return starts & (tokens[..., 1] == answers.end) if tokens.shape[-1] > 1 else starts


def is_correct(tokens: Array, labels: Array, answers: AnswerTokens) -> jax.Array:
    """Whether completions [B, G, L] start with the answer that labels [B] call for: [B, G] bool."""
    wanted = jnp.where(labels == 1, answers.one, answers.zero)
    return tokens[..., 0] == wanted[:, None]


def answer_reward(answers: AnswerTokens, format_weight: float, correct_weight: float) -> RewardFunction:
    """The default reward: `format_weight · format + correct_weight · correct`.

    `format` is 1 for exactly `0` or `1`, one half when the answer does not end there, else 0, so that a
    model which never ends its turn has a way to climb; `correct` is 1 for the right first token.
    """

    def reward(tokens: Array, labels: Array) -> jax.Array:
        started = is_answer(tokens, answers).astype(jnp.float32)
        formatted = is_formatted(tokens, answers).astype(jnp.float32)
        correct = is_correct(tokens, labels, answers).astype(jnp.float32)
        return format_weight * 0.5 * (started + formatted) + correct_weight * correct

    return reward
