"""What does not fit into a packed row is padded, and keeps nobody else out of one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prorank_jax.batch_shapes import make_batch_shapes
from prorank_jax.score_batches import packed_or_padded_batches
from prorank_jax.types import PackedBatch
from tests.cpu.grouped_prompts import make_prompts
from tests.cpu.tiny import tiny_config

SHAPES = make_batch_shapes(4000, 16, 1)
CONFIG = dataclasses.replace(tiny_config(), mlp_dim=1024)  # as in a real one, most of the work
SHORT, LONG = (200, [20] * 40), (10, [3000])


def batches(groups, row_tokens=1024):
    prompts, queries = make_prompts(groups)
    return prompts, list(packed_or_padded_batches(prompts, queries, SHAPES, 1, CONFIG, row_tokens, fine=True))


@pytest.mark.parametrize("groups", [[SHORT, LONG, SHORT], [LONG, SHORT], [SHORT, LONG, LONG]])
def test_a_prompt_longer_than_a_row_is_padded_and_the_others_are_packed(groups):
    prompts, made = batches(groups)
    padded = [batch for batch in made if not isinstance(batch, PackedBatch)]
    packed = [batch for batch in made if isinstance(batch, PackedBatch)]
    is_long = {place for place, prompt in enumerate(prompts) if len(prompt) > 1024}
    assert made[: len(padded)] == padded  # what takes the most memory comes first
    assert {int(place) for batch in padded for place in batch.examples} - {-1} == is_long
    for batch in padded:
        for tokens, length, place in zip(batch.tokens, batch.lengths, batch.examples, strict=True):
            if place >= 0:
                np.testing.assert_array_equal(tokens[:length], prompts[place])
    scored = np.concatenate([batch.examples[batch.examples >= 0] for batch in packed])
    assert sorted(scored.tolist()) == sorted(set(range(len(prompts))) - is_long)
    for batch in packed:
        for row, segment in zip(*np.nonzero(batch.examples >= 0), strict=True):
            start, length = batch.starts[row, segment], batch.lengths[row, segment]
            rest = prompts[batch.examples[row, segment]][-length:]
            np.testing.assert_array_equal(batch.tokens[row, start : start + length], rest)


def test_long_prompts_alone_and_short_ones_alone():
    assert all(not isinstance(batch, PackedBatch) for batch in batches([LONG, LONG])[1])
    assert all(isinstance(batch, PackedBatch) for batch in batches([SHORT, SHORT])[1])
