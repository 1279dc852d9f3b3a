"""How many sampled answers of stage 1 can be right at most, for its entropy term holds every answer back.

Let s be the log odds of the right answer against the other one, p = sigmoid(s), and all prompts alike, the
format learned. A group of G samples, k of them right, x = k / G, pushes s with

    Σ_g A_g · (1[g is right] − p) = correct_weight · Σ_g (1[g is right] − x)(1[g is right] − p)
                                  = correct_weight · G · x (1 − x),

whose mean over the samples is correct_weight · (G − 1) · p (1 − p). Its second token, the end of the turn, is
certain and pushes nothing, but the policy loss divides by all L · G tokens of the groups that are not tied,
while the entropy term, β · KL(uniform ‖ p) of each prompt, pulls back with β · (p − ½). They balance at

    correct_weight · (1 − 1/G) · p (1 − p) / (L · (1 − tied)) = β · (p − ½),  tied = p^G + (1 − p)^G,

where the policy rests however well it tells prompts apart. That holds back how large scores get, not their
order nor the greedy answers.
"""

from __future__ import annotations

import math

from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import ADVANTAGE_EPS

_HALVINGS = 50


def greatest_sampled_accuracy(options: GrpoOptions) -> float:
    """The p of this module's balance, between 0.5 and 1; 1.0 where the entropy term stops nothing.

    A KL term and the clip of further updates are left out of account.
    """
    low, high = 0.5, 1 - 2**-_HALVINGS
    if options.entropy_coefficient == 0 or _push(high, options) >= 0:
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _push(middle, options) > 0 else (low, middle)
    return low


def _push(p: float, options: GrpoOptions) -> float:
    """The mean gradient of the log odds, away from a coin's."""
    group = options.group_size
    counts = range(1, group)  # the others tie, and push nothing
    chances = [_chance(k, group, p) for k in counts]
    pushes = [_push_of_group(k / group, options) for k in counts]
    reward = sum(chance * push for chance, push in zip(chances, pushes, strict=True))
    counted = sum(chances) if options.mask_tied_groups else 1.0
    tokens = min(options.max_new_tokens, 2)
    return reward / (tokens * counted) - options.entropy_coefficient * (p - 0.5)


def _chance(right: int, group: int, p: float) -> float:
    """That so many of a group are right, by logarithms: the ways to choose them outgrow a float."""
    ways = math.lgamma(group + 1) - math.lgamma(right + 1) - math.lgamma(group - right + 1)
    return math.exp(ways + right * math.log(p) + (group - right) * math.log1p(-p))


def _push_of_group(x: float, options: GrpoOptions) -> float:
    """For each completion, of a group of which the share x is right."""
    push = options.correct_weight * x * (1 - x)
    if options.advantage == "mean":
        return push
    group = options.group_size
    return push / (options.correct_weight * math.sqrt(x * (1 - x) * group / (group - 1)) + ADVANTAGE_EPS)
