"""The logits behind sampled answers, and what they say of the tokens."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from prorank_jax.continuations import for_members


class AnswerLogits(NamedTuple):
    """Logits at the positions that produce a completion's tokens, divided by the temperature.

    The first token's are the same for the whole group, so they are kept once per prompt; later ones once for
    completions that are fed alike.

    Attributes:
        first: [B, V] float32.
        later: [B, U, L−1, V] float32, of the second token and on.
        members: [B, G] int32, see `Fed`; None: U = G.
    """

    first: jax.Array
    later: jax.Array
    members: jax.Array | None = None


def log_probs_of(logits: AnswerLogits, tokens: jax.Array) -> jax.Array:
    """Log-probability of each completion token: [B, G, L] float32."""

    def pick(values: jax.Array, chosen: jax.Array) -> jax.Array:
        picked = jnp.take_along_axis(values, chosen, axis=-1)
        return picked - jax.nn.logsumexp(values, axis=-1, keepdims=True)

    first = pick(logits.first, tokens[:, :, 0])  # [B, V], [B, G] → [B, G]
    if logits.members is None:
        later = pick(logits.later, tokens[:, :, 1:, None])[..., 0]  # [B, G, L−1]
    else:
        wanted = jnp.moveaxis(tokens[:, :, 1:], 1, 2)[:, None]  # [B, 1, L−1, G]
        for_all = jnp.broadcast_to(wanted, (*logits.later.shape[:3], tokens.shape[1]))
        later = for_members(pick(logits.later, for_all), logits.members)
    return jnp.concatenate([first[..., None], later], axis=-1)
