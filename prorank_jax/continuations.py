"""Which completions of a group are fed to the model: those that differ, or all of them.

After its first steps a policy says `0` or `1` and hardly anything else, so a group of any size asks the model
for what follows two or three different tokens only. Equal completions have equal logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

MOST_DISTINCT = 4  # `0`, `1`, and room for two that a policy says by chance

Outcome = TypeVar("Outcome")


class Fed(NamedTuple):
    """Completions that are fed, without their last token.

    Attributes:
        tokens: [B, U, S] int32.
        members: [B, G] int32, which of the U each member of the group shares; None: each has its own, U = G.
    """

    tokens: jax.Array
    members: jax.Array | None = None


def distinct(tokens: jax.Array, most: int) -> tuple[Fed, jax.Array]:
    """The different completions of each group, at most `most`, and whether that holds all of them.

    Args:
        tokens: [B, G, S] int32.

    Returns:
        What to feed, [B, most, S], in the order of their first members; places that are not needed repeat the
        first one. And a scalar bool: where it is false, some member shares another one's.
    """
    member = jnp.arange(tokens.shape[1])
    equal = (tokens[:, :, None] == tokens[:, None]).all(axis=-1)  # [B, G, G]
    first_alike = jnp.argmax(equal, axis=-1)
    is_first = first_alike == member
    place = jnp.cumsum(is_first, axis=1) - 1  # of those that are first
    holds = is_first[:, None] & (place[:, None] == jnp.arange(most)[:, None])  # [B, most, G]
    chosen = jnp.take_along_axis(tokens, jnp.argmax(holds, axis=-1)[..., None], axis=1)
    members = jnp.minimum(jnp.take_along_axis(place, first_alike, axis=1), most - 1)
    return Fed(chosen, members.astype(jnp.int32)), (is_first.sum(axis=1) <= most).all()


def of_distinct_or_all(tokens: jax.Array, compute: Callable[[Fed], Outcome]) -> Outcome:
    """What `compute` makes of the different completions where they are few in every group, else of all.

    Both are compiled, one runs; the outcome's shapes must not depend on which.

    Args:
        tokens: [B, G, S] int32.
    """
    group, width = tokens.shape[1:]
    if group <= MOST_DISTINCT or not width:
        return compute(Fed(tokens))
    few, holds_all = distinct(tokens, MOST_DISTINCT)
    outcome: Outcome = jax.lax.cond(holds_all, lambda: compute(few), lambda: compute(Fed(tokens)))
    return outcome


def of_members(values: jax.Array, members: jax.Array | None) -> jax.Array:
    """The values of each member's completion: [B, U, S] and [B, G] → [B, G, S]."""
    return values if members is None else jnp.take_along_axis(values, members[..., None], axis=1)


def for_members(values: jax.Array, members: jax.Array | None) -> jax.Array:
    """Each member's own value out of those of all completions: [B, U, ..., G] and [B, G] → [B, G, ...]."""
    if members is None:
        raise ValueError("members=None: each has a completion of its own; take that")
    index = members.reshape(members.shape[0], 1, *(1 for _ in values.shape[2:-1]), members.shape[1])
    own = jnp.take_along_axis(
        values, jnp.broadcast_to(index, (values.shape[0], 1, *values.shape[2:])), axis=1
    )
    return jnp.moveaxis(own[:, 0], -1, 1)
