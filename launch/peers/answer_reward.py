"""Stage 1's default reward for a peer's lists: `prorank_jax.rewards.answer_reward` in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def answer_reward(ids: Sequence[int], label: int, settings: dict[str, Any]) -> float:
    """The reward of one completion.

    Args:
        ids: of the completion, up to its end of turn if it has one.
        label: 1 where the document is relevant, else 0.
        settings: of work.json: `answers`, `new_tokens`, `format_weight` and `correct_weight`.
    """
    zero, one, end = (settings["answers"][name] for name in ("zero", "one", "end"))
    first = ids[0] if ids else None
    started = first in (zero, one)
    formatted = started and (settings["new_tokens"] == 1 or list(ids[1:2]) == [end])
    correct = first == (one if label == 1 else zero)
    return settings["format_weight"] * 0.5 * (started + formatted) + settings["correct_weight"] * correct
