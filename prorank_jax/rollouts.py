"""Sampling completions and replaying them, with one copy of the prompt for a whole group.

A prompt is run once; completions attend to its keys and values. `sample_completions` keeps the logits
differentiable, so that an on-policy update needs no second pass; `replay_logits` computes them again
for stored completions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import (
    TokenLayout,
    completion_layout,
    concatenate_layouts,
    prompt_layout,
)
from prorank_jax.models.layers import KeyValues
from prorank_jax.models.transformer import Transformer, last_positions
from prorank_jax.prompts import AnswerTokens
from prorank_jax.sampling import sample_categorical
from prorank_jax.types import Array, Batch, Params


class AnswerLogits(NamedTuple):
    """Logits at the positions that produce a completion's tokens, divided by the temperature.

    The first token's are the same for the whole group, so they are kept once per prompt.

    Attributes:
        first: [B, V] float32.
        later: [B, G, L−1, V] float32, of the second token and on.
    """

    first: jax.Array
    later: jax.Array


class _Prompt(NamedTuple):
    """A prompt pass: its last hidden state [B, D], its keys and values, and its layout."""

    last: jax.Array
    keyvalues: KeyValues
    layout: TokenLayout


def _apply(
    model: Transformer, params: Params, tokens: Array, layout: TokenLayout, *prefix: Any
) -> tuple[jax.Array, KeyValues]:
    outputs: Any = model.apply({"params": params}, tokens, layout, *prefix)
    return outputs


def _run_prompt(model: Transformer, params: Params, batch: Batch) -> _Prompt:
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    hidden, keyvalues = _apply(model, params, batch.tokens, layout)
    return _Prompt(last_positions(hidden, batch.lengths), keyvalues, layout)


def _head(model: Transformer, params: Params, hidden: jax.Array, temperature: float) -> jax.Array:
    logits: Any = model.apply({"params": params}, hidden, method="answer_logits")
    return logits / temperature


def _later_logits(
    model: Transformer, params: Params, batch: Batch, prompt: _Prompt, tokens: Array, temperature: float
) -> jax.Array:
    """Logits after each of the given completion tokens: [B, G, S] → [B, G, S, V]."""
    rows, group, width = tokens.shape
    layout = completion_layout(batch.lengths, group, width)
    fed = tokens.reshape(rows, group * width)
    hidden, _ = _apply(model, params, fed, layout, prompt.keyvalues, prompt.layout)
    return _head(model, params, hidden.reshape(rows, group, width, -1), temperature)


Choose = Callable[[jax.Array, jax.Array], jax.Array]
"""Picks tokens: (uniform numbers [..., n], logits [..., V]) → [..., n] int32."""

Edit = Callable[[jax.Array, jax.Array], jax.Array]
"""Changes tokens after the first before they are fed: (chosen [B, G], previous [B, G]) → [B, G]."""


def uniform_draws(key: jax.Array, rows: int, group: int, new_tokens: int) -> jax.Array:
    """The random numbers behind a batch's completions: [B, G, L] float32 from 0 to below 1.

    Drawn for the whole batch, so that a row has the same ones in whatever parts the batch is computed.
    """
    keys = jax.random.split(key, new_tokens)
    return jax.vmap(lambda key: jax.random.uniform(key, (rows, group)), out_axes=-1)(keys)


def choose_greedily(uniform: jax.Array, logits: jax.Array) -> jax.Array:
    """Takes the most likely token for each draw."""
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.broadcast_to(best[..., None], uniform.shape)


def keep_tokens(tokens: jax.Array, previous: jax.Array) -> jax.Array:
    """The edit that changes nothing."""
    del previous
    return tokens


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


def _extend(
    model: Transformer,
    params: Params,
    batch: Batch,
    prompt: _Prompt,
    first: jax.Array,
    uniform: jax.Array,
    temperature: float,
    choose: Choose,
    edit: Edit,
) -> jax.Array:
    """Decodes with a cache from the first tokens [B, G] by `uniform` [B, G, S] to [B, G, 1 + S]."""
    rows, group, width = uniform.shape
    full = completion_layout(batch.lengths, group, width)  # a slot for each token that is fed
    stacked = prompt.keyvalues.keys.shape
    empty = jnp.zeros((stacked[0], rows, group * width, *stacked[3:]), prompt.keyvalues.keys.dtype)
    slots = jnp.arange(group) * width

    def feed(carry: tuple[KeyValues, jax.Array], now: tuple[jax.Array, jax.Array]) -> tuple:
        cache, token = carry
        draws, offset = now
        here = TokenLayout(
            jnp.broadcast_to((batch.lengths + offset)[:, None], (rows, group)),
            jnp.broadcast_to(jnp.arange(1, group + 1, dtype=jnp.int32), (rows, group)),
        )
        # Slots at this position and later are empty; giving them a later position hides them.
        unfilled = full.positions >= (batch.lengths + offset)[:, None]
        seen = TokenLayout(jnp.where(unfilled, jnp.iinfo(jnp.int32).max, full.positions), full.segments)
        prefix = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), prompt.keyvalues, cache)
        prefix_layout = concatenate_layouts(prompt.layout, seen)
        hidden, own = _apply(model, params, token, here, prefix, prefix_layout)
        cache = jax.tree.map(lambda slot, new: slot.at[:, :, slots + offset].set(new), cache, own)
        logits = _head(model, params, hidden, temperature)
        following = edit(choose(draws[..., None], logits)[..., 0], token)
        return (cache, following), following

    offsets = jnp.arange(width, dtype=jnp.int32)
    sampled: jax.Array
    draws = jnp.moveaxis(uniform, 2, 0)
    _, sampled = jax.lax.scan(feed, (KeyValues(empty, empty), first), (draws, offsets))
    return jnp.concatenate([first[:, :, None], jnp.moveaxis(sampled, 0, 2)], axis=2)


def sample_completions(
    model: Transformer,
    params: Params,
    batch: Batch,
    uniform: jax.Array,
    *,
    temperature: float = 1.0,
    choose: Choose = sample_categorical,
    edit: Edit = keep_tokens,
) -> tuple[jax.Array, AnswerLogits]:
    """Samples G completions per prompt; the logits returned are differentiable in `params`.

    The prompt runs once. Each later token but the last is decoded against a cache; one differentiable
    pass over the completions then gives all later logits and the last token. For two tokens, the
    default, that pass is the decode.

    Args:
        uniform: [B, G, L], of `uniform_draws`: a random number for each token.

    Returns:
        Tokens [B, G, L] int32, not yet cut at the end of the turn, and the logits they came from.
    """
    group, new_tokens = uniform.shape[1:]
    prompt = _run_prompt(model, params, batch)
    first_logits = _head(model, params, prompt.last, temperature)
    first = choose(uniform[:, :, 0], jax.lax.stop_gradient(first_logits))
    rows, vocabulary = first_logits.shape
    if new_tokens == 1:
        nothing = jnp.zeros((rows, group, 0, vocabulary), first_logits.dtype)
        return first[..., None], AnswerLogits(first_logits, nothing)
    fed = first[..., None]
    if new_tokens > 2:
        frozen = jax.lax.stop_gradient((params, prompt))
        middle = uniform[:, :, 1:-1]
        fed = _extend(model, frozen[0], batch, frozen[1], first, middle, temperature, choose, edit)
    later = _later_logits(model, params, batch, prompt, fed, temperature)
    drawn = choose(uniform[:, :, -1:], jax.lax.stop_gradient(later[:, :, -1]))
    last = edit(drawn[..., 0], fed[:, :, -1])
    return jnp.concatenate([fed, last[..., None]], axis=2), AnswerLogits(first_logits, later)


def replay_logits(
    model: Transformer, params: Params, batch: Batch, tokens: Array, temperature: float = 1.0
) -> AnswerLogits:
    """The logits behind given completions [B, G, L], with one copy of the prompt."""
    prompt = _run_prompt(model, params, batch)
    first = _head(model, params, prompt.last, temperature)
    if tokens.shape[2] == 1:
        return AnswerLogits(first, jnp.zeros((*tokens.shape[:2], 0, first.shape[1]), first.dtype))
    return AnswerLogits(first, _later_logits(model, params, batch, prompt, tokens[:, :, :-1], temperature))


def completion_mask(tokens: jax.Array, end: int) -> jax.Array:
    """1 up to and including the first end-of-turn token: [B, G, L] → [B, G, L] float32."""
    ends = (tokens == end).astype(jnp.int32)
    ended_before = jnp.cumsum(ends, axis=-1) - ends
    return (ended_before == 0).astype(jnp.float32)


def close_completions(tokens: jax.Array, end: int) -> jax.Array:
    """Replaces whatever follows the first end-of-turn token by that token."""
    return jnp.where(completion_mask(tokens, end) > 0, tokens, end)


def log_probs_of(logits: AnswerLogits, tokens: jax.Array) -> jax.Array:
    """Log-probability of each completion token: [B, G, L] float32."""

    def pick(values: jax.Array, chosen: jax.Array) -> jax.Array:
        picked = jnp.take_along_axis(values, chosen, axis=-1)
        return picked - jax.nn.logsumexp(values, axis=-1, keepdims=True)

    first = pick(logits.first, tokens[:, :, 0])  # [B, V], [B, G] → [B, G]
    later = pick(logits.later, tokens[:, :, 1:, None])[..., 0]  # [B, G, L−1]
    return jnp.concatenate([first[..., None], later], axis=-1)
