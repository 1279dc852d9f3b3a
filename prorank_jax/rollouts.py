"""Sampling completions and replaying them, with one copy of the prompt for a whole group.

A prompt is run once; completions attend to its keys and values. Their logits stay differentiable, so that an
on-policy update needs no second pass; `replay_logits` computes them again for stored completions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prorank_jax.answer_logits import AnswerLogits
from prorank_jax.continuations import Fed, for_members
from prorank_jax.models.attention import (
    TokenLayout,
    completion_layout,
    concatenate_layouts,
    prompt_layout,
)
from prorank_jax.models.key_values import LayerKeyValues
from prorank_jax.models.reading import states_behind
from prorank_jax.models.transformer import Transformer
from prorank_jax.prompt_pass import prompt_states
from prorank_jax.sampling import sample_categorical
from prorank_jax.types import Array, Batch, Params


class Prompt(NamedTuple):
    """What a pass over the prompts leaves for their completions; both are differentiable.

    Attributes:
        first: [B, V] float32, the logits of the first token, divided by the temperature.
        keyvalues: of the prompts' tokens.
    """

    first: jax.Array
    keyvalues: LayerKeyValues


def _head(model: Transformer, params: Params, hidden: jax.Array, temperature: float) -> jax.Array:
    logits: Any = model.apply({"params": params}, hidden, method="answer_logits")
    return logits / temperature


def _layout(batch: Batch) -> TokenLayout:
    return prompt_layout(batch.lengths, batch.tokens.shape[1])


def read_prompts(
    model: Transformer, params: Params, batch: Batch, temperature: float, *, trains: bool = False
) -> Prompt:
    """Runs the prompts, once for all completions.

    Args:
        trains: whether gradients will be asked for; see `Transformer.states_at`.
    """
    last, keyvalues = prompt_states(model, params, batch, trains=trains)
    return Prompt(_head(model, params, last, temperature), keyvalues)


def completion_logits(
    model: Transformer,
    params: Params,
    batch: Batch,
    prompt: Prompt,
    fed: Fed,
    temperature: float,
    *,
    trains: bool = False,
) -> AnswerLogits:
    """The logits behind completions whose tokens but the last are fed, after prompts that were read.

    Args:
        trains: whether gradients will be asked for; see `Transformer.states_at`.
    """
    rows, count, width = fed.tokens.shape
    if not width:
        nothing = jnp.zeros((rows, count, 0, prompt.first.shape[-1]), prompt.first.dtype)
        return AnswerLogits(prompt.first, nothing, fed.members)
    layout = completion_layout(batch.lengths, count, width)
    flat = fed.tokens.reshape(rows, count * width)
    prefix = (prompt.keyvalues, _layout(batch))
    hidden, _ = states_behind(model, params, flat, layout, None, *prefix, trains=trains)
    later = _head(model, params, hidden.reshape(rows, count, width, -1), temperature)
    return AnswerLogits(prompt.first, later, fed.members)


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


def _extend(
    model: Transformer,
    params: Params,
    batch: Batch,
    prompt: Prompt,
    first: jax.Array,
    uniform: jax.Array,
    temperature: float,
    choose: Choose,
    edit: Edit,
) -> jax.Array:
    """Decodes with a cache from the first tokens [B, G] by `uniform` [B, G, S] to [B, G, 1 + S]."""
    rows, group, width = uniform.shape
    full = completion_layout(batch.lengths, group, width)  # a slot for each token that is fed
    slots = jnp.arange(group) * width

    def empty_slots(values: jax.Array) -> jax.Array:
        return jnp.zeros((*values.shape[:-3], group * width, *values.shape[-2:]), values.dtype)

    def feed(carry: tuple[LayerKeyValues, jax.Array], now: tuple[jax.Array, jax.Array]) -> tuple:
        cache, token = carry
        draws, offset = now
        here = TokenLayout(
            jnp.broadcast_to((batch.lengths + offset)[:, None], (rows, group)),
            jnp.broadcast_to(jnp.arange(1, group + 1, dtype=jnp.int32), (rows, group)),
        )
        # Slots at this position and later are empty; giving them a later position hides them.
        unfilled = full.positions >= (batch.lengths + offset)[:, None]
        seen = TokenLayout(jnp.where(unfilled, jnp.iinfo(jnp.int32).max, full.positions), full.segments)
        prefix = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-3), prompt.keyvalues, cache)
        prefix_layout = concatenate_layouts(_layout(batch), seen)
        hidden, own = states_behind(model, params, token, here, None, prefix, prefix_layout)
        cache = jax.tree.map(lambda slot, new: slot.at[..., slots + offset, :, :].set(new), cache, own)
        logits = _head(model, params, hidden, temperature)
        following = edit(choose(draws[..., None], logits)[..., 0], token)
        return (cache, following), following

    offsets = jnp.arange(width, dtype=jnp.int32)
    sampled: jax.Array
    draws = jnp.moveaxis(uniform, 2, 0)
    _, sampled = jax.lax.scan(feed, (jax.tree.map(empty_slots, prompt.keyvalues), first), (draws, offsets))
    return jnp.concatenate([first[:, :, None], jnp.moveaxis(sampled, 0, 2)], axis=2)


def begin_completions(
    model: Transformer,
    params: Params,
    batch: Batch,
    prompt: Prompt,
    uniform: jax.Array,
    *,
    temperature: float = 1.0,
    choose: Choose = sample_categorical,
    edit: Edit = keep_tokens,
) -> jax.Array:
    """Samples all tokens of G completions but the last: [B, G, L−1] int32, no gradient.

    The first comes from the prompt's own logits, each further one is decoded against a cache. For two
    tokens, the default, nothing is decoded. Of one token, that is sampled: [B, G, 1].

    Args:
        uniform: [B, G, L], of `uniform_draws`: a random number for each token.
    """
    params, prompt = jax.lax.stop_gradient((params, prompt))
    first = choose(uniform[:, :, 0], prompt.first)
    if uniform.shape[2] <= 2:
        return first[..., None]
    return _extend(model, params, batch, prompt, first, uniform[:, :, 1:-1], temperature, choose, edit)


def end_completions(
    logits: AnswerLogits,
    begun: jax.Array,
    uniform: jax.Array,
    *,
    choose: Choose = sample_categorical,
    edit: Edit = keep_tokens,
) -> jax.Array:
    """Samples the last token of completions that `begin_completions` began: [B, G, L] int32.

    Args:
        logits: of `completion_logits`, for what was begun.
        uniform: as there.
    """
    if uniform.shape[2] == 1:
        return begun
    last, draws = jax.lax.stop_gradient(logits.later[:, :, -1]), uniform[:, :, -1]
    if logits.members is None:
        drawn = choose(draws[..., None], last)[..., 0]
    else:
        for_all = jnp.broadcast_to(draws[:, None], (*last.shape[:2], draws.shape[1]))
        drawn = for_members(choose(for_all, last), logits.members)
    return jnp.concatenate([begun, edit(drawn, begun[:, :, -1])[..., None]], axis=2)


def fed_tokens(begun: Array, new_tokens: int) -> jax.Array:
    """The tokens of completions that are fed, all but the last: [B, G, L−1] int32."""
    return jnp.asarray(begun)[:, :, : new_tokens - 1]


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
    """Samples G completions per prompt, each fed by itself.

    The prompt runs once. Each later token but the last is decoded against a cache; one differentiable
    pass over the completions then gives all later logits and the last token. For two tokens, the
    default, that pass is the decode.

    Args:
        uniform: [B, G, L], of `uniform_draws`: a random number for each token.

    Returns:
        Tokens [B, G, L] int32, not yet cut at the end of the turn, and the logits they came from.
    """
    prompt = read_prompts(model, params, batch, temperature)
    begun = begin_completions(
        model, params, batch, prompt, uniform, temperature=temperature, choose=choose, edit=edit
    )
    fed = Fed(fed_tokens(begun, uniform.shape[2]))
    logits = completion_logits(model, params, batch, prompt, fed, temperature)
    return end_completions(logits, begun, uniform, choose=choose, edit=edit), logits


def replay_logits(
    model: Transformer, params: Params, batch: Batch, tokens: Array, temperature: float = 1.0
) -> AnswerLogits:
    """The logits behind given completions [B, G, L], with one copy of the prompt."""
    prompt = read_prompts(model, params, batch, temperature, trains=True)
    fed = Fed(fed_tokens(tokens, tokens.shape[2]))
    return completion_logits(model, params, batch, prompt, fed, temperature, trains=True)
