"""Completions as token ids: where they end, and which of them are made to end."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prorank_jax.prompts import AnswerTokens


def completion_mask(tokens: jax.Array, end: int) -> jax.Array:
    """1 up to and including the first end-of-turn token: [B, G, L] → [B, G, L] float32."""
    ends = (tokens == end).astype(jnp.int32)
    ended_before = jnp.cumsum(ends, axis=-1) - ends
    return (ended_before == 0).astype(jnp.float32)


def close_completions(tokens: jax.Array, end: int) -> jax.Array:
    """Replaces whatever follows the first end-of-turn token by that token."""
    return jnp.where(completion_mask(tokens, end) > 0, tokens, end)


def end_some_after_answer(
    tokens: jax.Array, previous: jax.Array, answers: AnswerTokens, count: int
) -> jax.Array:
    """Makes the first `count` members of each group end their turn where they have just answered.

    Args:
        tokens: [B, G] int32, as sampled; `previous` [B, G] the tokens before them.
        answers: which tokens are answers, and which ends the turn.
        count: members of each group; 0 changes nothing.
    """
    return jnp.where(_must_end(previous, answers, count), answers.end, tokens)


def was_made_to_end(tokens: jax.Array, answers: AnswerTokens, count: int) -> jax.Array:
    """Where `end_some_after_answer` chose the token of a completion: [B, G, L] int32 → bool."""
    first, later = jnp.zeros_like(tokens[..., :1], bool), _must_end(tokens[..., :-1], answers, count)
    return jnp.concatenate([first, later], axis=-1) & (tokens == answers.end)


def _must_end(previous: jax.Array, answers: AnswerTokens, count: int) -> jax.Array:
    """Of a token after `previous`: [B, G, ...] int32 → bool."""
    member = jnp.arange(previous.shape[1]) < count
    answered = (previous == answers.zero) | (previous == answers.one)
    return answered & member.reshape(-1, *(1 for _ in previous.shape[2:]))
