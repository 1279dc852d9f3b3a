"""What a group's completions have in common: those that begin with the same token are computed once.

After an answer's first token, a completion's logits depend on that token alone. A policy that has learned to
answer says `0` or `1`, so a group of any size has two such tokens; before, it has as many as it happens to
draw. A few slots hold them where they fit, for every prompt of a batch; else each completion is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

SLOTS = 4
# Below this the slots spare less than the choice between two branches costs.
SMALLEST_GROUP = 3 * SLOTS


class Distinct(NamedTuple):
    """The distinct tokens of each group, in the order in which they first stand there.

    Attributes:
        tokens: [B, SLOTS] int32; 0 where a group has fewer, the first ones where it has more.
        slots: [B, G] int32, which of them each member is; from `SLOTS` on, none.
        fit: scalar bool, whether no group has more than there are slots.
    """

    tokens: jax.Array
    slots: jax.Array
    fit: jax.Array


def distinct_tokens(tokens: jax.Array) -> Distinct:
    """The distinct tokens of each group: [B, G] int32 from 0 on."""
    first_alike = jnp.argmax(tokens[:, :, None] == tokens[:, None, :], axis=2)  # [B, G]
    leads = first_alike == jnp.arange(tokens.shape[1])
    slots = jnp.take_along_axis(jnp.cumsum(leads, axis=1) - 1, first_alike, axis=1)
    in_slot = slots[:, :, None] == jnp.arange(SLOTS)
    held = jnp.where(in_slot, tokens[:, :, None], 0).max(axis=1)
    return Distinct(held, slots.astype(jnp.int32), slots.max() < SLOTS)


def for_each_distinct(compute: Callable[[jax.Array], jax.Array], tokens: jax.Array) -> jax.Array:
    """`compute` of each member's token, run for the distinct ones only where they fit the slots.

    Args:
        compute: [B, n] int32 → [B, n, ...], each from its own token; differentiable in what it closes over.
        tokens: [B, G] int32.

    Returns:
        [B, G, ...].
    """
    if tokens.shape[1] < SMALLEST_GROUP:
        return compute(tokens)
    distinct = distinct_tokens(tokens)

    def of_slots() -> jax.Array:
        results = compute(distinct.tokens)
        places = distinct.slots.reshape(*tokens.shape, *(1 for _ in results.shape[2:]))
        return jnp.take_along_axis(results, places, axis=1)

    return jax.lax.cond(distinct.fit, of_slots, lambda: compute(tokens))
