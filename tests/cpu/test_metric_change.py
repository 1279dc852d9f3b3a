"""A metric's change is measured in standard errors of itself, and not at all on too few values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prorank_jax.metric_change import metric_change


def records(values: list[float | None]) -> list[dict[str, float | None]]:
    return [{"step": step, "loss": value} for step, value in enumerate(values, start=1)]


def test_the_quarters_and_the_noise_of_their_difference() -> None:
    values = np.random.default_rng(0).normal(size=40)
    change = metric_change(records(list(values)), "loss")
    assert change is not None
    assert change.start == pytest.approx(values[:10].mean())
    assert change.end == pytest.approx(values[30:].mean())
    assert change.noise == pytest.approx(math.sqrt((values[:10].var(ddof=1) + values[30:].var(ddof=1)) / 10))
    assert change.errors == pytest.approx((change.end - change.start) / change.noise)


def test_few_values_say_nothing_and_missing_ones_do_not_count() -> None:
    assert metric_change(records([1.0] * 31), "loss") is None
    assert metric_change(records([1.0] * 31 + [None] * 9), "loss") is None
    assert metric_change(records([1.0] * 32), "reward") is None


@pytest.mark.parametrize(("end", "errors"), [(1.0, 0.0), (2.0, math.inf), (0.0, -math.inf)])
def test_a_change_without_noise_is_certain(end: float, errors: float) -> None:
    change = metric_change(records([1.0] * 16 + [end] * 16), "loss")
    assert change is not None
    assert change.errors == errors
