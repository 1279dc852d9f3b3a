from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.benchmarks.agreement import compare_values

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=8), st.floats(1e-6, 0.1), st.data())
def test_values_agree_up_to_the_tolerance_and_not_beyond(values, tolerance, data):
    apart = [tolerance * max(1, abs(value)) for value in values]
    near = [value + 0.5 * step for value, step in zip(values, apart, strict=True)]
    agreement = compare_values(("a", "b"), values, near, tolerance)
    assert agreement.values == len(values)
    assert agreement.largest_difference == pytest.approx(0.5 * tolerance, rel=1e-3)
    wrong = data.draw(st.integers(0, len(values) - 1))
    near[wrong] = values[wrong] + 1.5 * apart[wrong]
    with pytest.raises(ValueError, match=f"value {wrong} is .* by a and .* by b.*not compared"):
        compare_values(("a", "b"), values, near, tolerance)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_both_sides_must_give_as_many_values(ours, theirs):
    with pytest.raises(ValueError, match="the same number, at least one"):
        compare_values(("a", "b"), ours, theirs, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_agree_with_nothing(bad):
    with pytest.raises(ValueError, match="value 1 of b is not finite"):
        compare_values(("a", "b"), [0.0, 1.0], [0.0, bad], 1e9)
