"""Runs of one test file that compute the same thing trace and compile it once.

Half of the time of a tiny run is Python tracing its step. What a run computes follows from the arguments of
the functions below, so a run that goes on where another stopped may use the other's jitted functions; that
a process without them gives the same bits is tested where runs have processes of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import prorank_jax.ranking_objective
import prorank_jax.setup
import prorank_jax.stages
from prorank_jax.ranking_step import RankingObjective

MAKERS = {
    prorank_jax.setup: ("make_optimizer", "make_schedule", "make_probe_step"),
    prorank_jax.stages: ("answer_reward", "make_grpo_step", "make_ranking_step"),
    prorank_jax.ranking_objective: ("make_losses",),
}


def _by_value(argument: Any) -> Any:
    """Something hashable that is equal for equal arguments; functions are equal to themselves alone."""
    if isinstance(argument, RankingObjective):
        return tuple((name, _by_value(value)) for name, value in vars(argument).items())
    if isinstance(argument, dict):
        return tuple((name, _by_value(value)) for name, value in argument.items())
    return argument


def _remembering(make: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    @functools.wraps(make)
    def remembered(*arguments: Any, **named: Any) -> Any:
        key = (*map(_by_value, arguments), *sorted(named.items()))
        if key not in made:
            made[key] = make(*arguments, **named)
        return made[key]

    return remembered


@contextmanager
def sharing_programs() -> Iterator[None]:
    """While it is entered, equal steps are the same jitted function."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in MAKERS.items():
            for name in names:
                patch.setattr(module, name, _remembering(getattr(module, name)))
        yield
