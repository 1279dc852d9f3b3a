"""The comparison of an accelerator with float32, by the CPU's own bfloat16: it can pass, and it can fail."""

from __future__ import annotations

import pytest

from prorank_jax.types import Batch
from tests.device_steps import (
    COSINE,
    NORM_TOLERANCE,
    SCORE_TOLERANCE,
    Learned,
    assert_alike,
    cpu,
    learned_on,
    prompts,
)


def test_bfloat16_is_near_to_float32_and_not_where_a_token_is_out_of_place():
    bounds, batch = (SCORE_TOLERANCE, NORM_TOLERANCE, COSINE), prompts(2, 24)

    def learned(dtype: str, batch: Batch) -> Learned:
        return learned_on(cpu(), "xla", dtype, batch, (4, 3))

    exact = learned("float32", batch)
    assert exact[0]["kl"] > 0.01
    assert_alike(learned("bfloat16", batch), exact, *bounds)
    with pytest.raises(AssertionError):
        assert_alike(learned("float32", batch.replace(lengths=batch.lengths - 1)), exact, *bounds)
