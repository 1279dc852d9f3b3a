"""Packed rows: every kind of attention gives the scores of whole prompts, and filler is seen by nobody."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.batch_shapes import make_batch_shapes, pad_batch
from prorank_jax.models.attention import visibility_for
from prorank_jax.models.fused import OneSequence
from prorank_jax.models.packed import PackedRows, packed_visibility
from prorank_jax.models.packed_layout import (
    packed_layout,
    packed_lists_layout,
    put_together,
    segment_order,
    take_apart,
)
from prorank_jax.models.plain import CausalBlocks
from prorank_jax.models.splash import PrefixCausal
from prorank_jax.packing import pad_packed, plan_packed
from prorank_jax.scoring import packed_scores, relevance_scores
from prorank_jax.types import PackedBatch
from tests.cpu.grouped_prompts import make_prompts
from tests.cpu.test_packing import REAL
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_model

EXACT = 1e-5
SHAPES = make_batch_shapes(400, 16, 1)
# Queries with one prompt, with several, and with some that share nothing.
SHORT = [(20, [9, 30, 1]), (3, [25]), (0, [40, 12]), (31, [5, 17, 22, 40])]
LONG = [(20, [150, 30]), (0, [200]), (31, [5, 170])]


def packed(groups: list[tuple[int, list[int]]]) -> tuple[PackedBatch, list[np.ndarray]]:
    prompts, queries = make_prompts(groups)
    (plan,) = plan_packed(prompts, queries, SHAPES, 1, REAL, 2048, fine=True)
    return pad_packed(plan, prompts), prompts


def seen_from_ends(batch: PackedBatch) -> np.ndarray:
    """Whom the last token of each segment sees: [R, E, T]."""
    return np.asarray(packed_visibility(packed_layout(batch), batch.starts + batch.lengths - 1))


def of_prompts(batch: PackedBatch, scores: jax.Array) -> np.ndarray:
    found = np.full(batch.examples.max() + 1, np.nan, np.float32)
    real = batch.examples >= 0
    found[batch.examples[real]] = np.asarray(scores)[real]
    return found


@pytest.mark.parametrize(
    ("family", "attention", "groups", "apart"),
    [
        ("qwen2", "xla", SHORT, jax.Array),
        ("qwen3", "xla", LONG, CausalBlocks),
        ("llama", "cudnn_emulated", LONG, OneSequence),
        ("qwen2", "splash_interpreted", LONG, PrefixCausal),
    ],
)
def test_packed_scores_are_those_of_whole_prompts(family, attention, groups, apart):
    model, params = tiny_model(family, max_positions=512)
    batch, prompts = packed(groups)
    whole = pad_batch(prompts, range(len(prompts)), SHAPES)
    wanted = jax.jit(lambda params: relevance_scores(model, params, whole, ANSWERS))(params)[: len(prompts)]
    kernel = model.clone(attention=attention)
    scores = jax.jit(lambda params: packed_scores(kernel, params, batch, ANSWERS))(params)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(of_prompts(batch, scores), wanted, rtol=0, atol=EXACT)
    assert np.ptp(wanted) > 0.1
    seen = visibility_for(attention, packed_layout(batch), None)
    assert isinstance(seen, PackedRows)
    assert isinstance(seen.apart, apart)


def test_scores_do_not_depend_on_what_stands_at_filler():
    model, params = tiny_model(max_positions=512)
    batch, _ = packed(SHORT)
    filled = int((batch.starts + batch.lengths).max())
    assert filled < batch.tokens.shape[1]
    other = batch.tokens.copy()
    other[:, filled:] = np.random.default_rng(1).integers(0, VOCABULARY, other[:, filled:].shape)
    run = jax.jit(lambda params, batch: packed_scores(model, params, batch, ANSWERS))
    real = batch.examples >= 0
    before, after = (
        np.asarray(run(params, dataclasses.replace(batch, tokens=tokens)))[real]
        for tokens in (batch.tokens, other)
    )
    np.testing.assert_array_equal(before, after)


def test_the_last_token_of_a_segment_sees_its_own_prompt_only():
    batch, prompts = packed(SHORT)
    seen = seen_from_ends(batch)
    for row, segment in np.argwhere(batch.examples >= 0).tolist():
        prompt = prompts[batch.examples[row, segment]]
        np.testing.assert_array_equal(batch.tokens[row][seen[row, segment]], prompt)


def test_positions_count_from_the_start_of_the_whole_prompt():
    batch, prompts = packed(LONG)
    layout = packed_layout(batch)
    seen = seen_from_ends(batch)
    for row, segment in np.argwhere(batch.examples >= 0).tolist():
        positions = np.asarray(layout.positions)[row][seen[row, segment]]
        np.testing.assert_array_equal(positions, np.arange(len(prompts[batch.examples[row, segment]])))


def test_tokens_are_put_together_as_they_were_and_so_are_gradients():
    """What stands at filler or padding has no gradient, nor gives any."""
    layout = packed_lists_layout(np.array([[3, 1, 4], [2, 5, 1]], np.int32), np.array([2, 0]), 6, 10)
    order = segment_order(layout)
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 10, 1, 2)).astype(np.float32)
    apart = np.asarray(take_apart(tokens, order)).reshape(2, 3, 6, 2)
    np.testing.assert_array_equal(apart[0, 0, :3], tokens[0, :3, 0])
    np.testing.assert_array_equal(apart[0, 2, :4], tokens[0, 4:8, 0])
    np.testing.assert_array_equal(apart[1, 1, :5], tokens[1, 2:7, 0])
    again, back = jax.vjp(lambda tokens: put_together(take_apart(tokens, order), order), tokens)
    real = np.arange(10) < np.array([[8], [8]])
    np.testing.assert_array_equal(np.asarray(again)[real], tokens[real])
    (gradient,) = back(jnp.ones_like(again))
    np.testing.assert_array_equal(gradient, np.broadcast_to(real[:, :, None, None], gradient.shape))


def test_positions_of_a_list_go_on_from_its_prefix():
    layout = packed_lists_layout(np.array([[3, 1, 2]], np.int32), np.array([5]), 4, 7)
    np.testing.assert_array_equal(layout.positions[0, :6], [5, 6, 7, 5, 5, 6])
    np.testing.assert_array_equal(layout.segments[0, :6], [0, 0, 0, 1, 2, 2])
