"""How many prompts of stage 1 stand behind each other in a row, and how long rows are: host only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prorank_jax.batch_order import BalancedOrder
from prorank_jax.types import PromptRows

# Off a CPU the last layer asks all of a row for each prompt's last token, so rows are no longer than this.
MOST_PROMPTS, MOST_TOKENS = 32, 16_384
# Of the tokens that the batches of a width need in their fullest row: one length for each, compiled once.
LENGTH_QUANTILES = (0.5, 1.0)
LENGTH_MULTIPLE = 16
# Of the padded prompts' tokens: a CPU gains from 7% less what it leaves out, from 1% hardly anything. For a
# TPU 7% less are 6% fewer FLOPs, and 8% more memory traffic.
WORTHWHILE_SHARE = 1 / 16
# Of a longer row's tokens: less is not worth a compilation.
WORTH_A_LENGTH = 1 / 8
# So many first batches of a run say how long rows are, of so many epochs at most: an epoch of few batches may
# be drawn from very many examples.
LOOKED_AT, MOST_EPOCHS = 1024, 8


@dataclass(frozen=True)
class RowMembers:
    """Which prompts of a batch stand in a row together.

    Attributes:
        prompts: n of each row, neighbours in their part.
        parts: a batch is computed in; part p has the prompts p, p + parts, and so on.
        shared: tokens that all begin with and none ends with, once in each row.
    """

    prompts: int
    parts: int
    shared: int

    def tokens(self, lengths: np.ndarray) -> int:
        """What the fullest row of a batch holds; `lengths` [B] are those of its prompts."""
        rests = (lengths - self.shared).reshape(-1, self.parts).T.reshape(-1, self.prompts)
        return self.shared + int(rests.sum(axis=1).max())


def members_of_rows(
    batch_size: int, parts: int, ways: int, begins_alike: int, longest: int
) -> RowMembers | None:
    """As many prompts to a row as one device computes at once and a row may have; None for one alone.

    Args:
        batch_size: B of the global batch.
        parts: of a batch, which `ways` devices share each; both divide it.
        begins_alike: tokens that every prompt begins with and none ends with.
        longest: of the prompts, in tokens.
    """
    together, most = batch_size // parts // ways, max(1, min(MOST_PROMPTS, MOST_TOKENS // longest))
    prompts = max(count for count in range(1, most + 1) if together % count == 0)
    return RowMembers(prompts, parts, begins_alike) if prompts > 1 else None


@dataclass(frozen=True)
class RowPlan:
    """The rows of every batch of a run.

    Attributes:
        members: of a row.
        lengths: of rows, ascending, for each static length of prompts.
    """

    members: RowMembers
    lengths: Mapping[int, tuple[int, ...]]

    def rows_for(self, lengths: np.ndarray, width: int) -> PromptRows | None:
        """The rows of a batch; None where prompts are padded instead.

        Args:
            lengths: [B] tokens of all prompts of a batch, over all processes, which must agree.
            width: T that each is padded to.
        """
        needed = self.members.tokens(lengths)
        long_enough = [tokens for tokens in self.lengths.get(width, ()) if tokens >= needed]
        if not long_enough:
            return None
        return PromptRows(self.members.prompts, self.members.shared, long_enough[0])


def plan_rows(order: BalancedOrder, lengths: np.ndarray, members: RowMembers) -> RowPlan:
    """Chooses the lengths of rows by the first batches, so that a run that goes on has the same ones.

    With other devices or parts it has other rows, which changes results by rounding only.

    Args:
        lengths: [n] tokens of each example.
    """
    needed: dict[int, list[int]] = {}
    epochs = map(order.epoch, range(MOST_EPOCHS))
    batches = ((b, int(w)) for plan in epochs for b, w in zip(plan.examples, plan.buckets, strict=True))
    for examples, width in itertools.islice(batches, LOOKED_AT):
        needed.setdefault(width, []).append(members.tokens(lengths[examples]))
    return RowPlan(members, {width: row_lengths(of, members.prompts * width) for width, of in needed.items()})


def plan_of_one_length(batches: Sequence[np.ndarray], width: int, begins_alike: int) -> RowPlan | None:
    """As training on one device has rows, but all of one length; None where each would hold one prompt.

    Args:
        batches: [B] tokens of the prompts of each, all of one B.
        width: T that each prompt is padded to.
        begins_alike: as for `members_of_rows`.
    """
    members = members_of_rows(len(batches[0]), parts=1, ways=1, begins_alike=begins_alike, longest=width)
    if members is None:
        return None
    most = max(members.tokens(lengths) for lengths in batches)
    return RowPlan(members, {width: row_lengths([most], members.prompts * width)})


def row_lengths(needed: Sequence[int], padded: int) -> tuple[int, ...]:
    """One or two lengths of rows, ascending, by what batches need; none where padding adds hardly any.

    Args:
        needed: tokens of the fullest row of each batch.
        padded: tokens of a row's prompts, each padded.
    """
    quantiles = np.quantile(needed, LENGTH_QUANTILES, method="inverted_cdf")
    often, most = (-(-int(tokens) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE for tokens in quantiles)
    kept = (often, most) if often <= (1 - WORTH_A_LENGTH) * most else (most,)
    return tuple(tokens for tokens in kept if tokens <= (1 - WORTHWHILE_SHARE) * padded)
