"""Packed rows hold every prompt whole, keep to their sizes, and give the scores of the prompts alone."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import prorank_jax.score_batches
from prorank_jax.batch_shapes import FULL_BATCH_WIDTH, make_batch_shapes, next_width, width_ladder
from prorank_jax.config import MeshOptions
from prorank_jax.models.transformer import abstract_params
from prorank_jax.packing import PackedPlan, pad_packed, plan_packed
from prorank_jax.scorer import PairScorer
from prorank_jax.sharding import make_mesh, state_shardings
from prorank_jax.types import PackedBatch
from tests.cpu.grouped_prompts import groups, make_prompts
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_model

EXACT = 1e-5
CONFIG = tiny_model()[0].config
# Of Qwen2.5-0.5B's layers: most work is that of weights, where attention's is most of a tiny model's.
REAL = dataclasses.replace(CONFIG, dim=896, heads=14, kv_heads=2, head_dim=64, mlp_dim=4_864)
PREFIX, REST = 40, 24
PAIRS = [(str(query), str(document)) for query in range(5) for document in range(9)]


def whole_prompts(batch: PackedBatch) -> dict[int, list[int]]:
    """place → its prompt, as a batch has it."""

    def tokens_of(row: int, segment: int) -> list[int]:
        start = batch.starts[row, segment]
        end = start + batch.lengths[row, segment]
        assert (batch.segments[row, start:end] == segment).all()
        return batch.tokens[row, start:end].tolist()

    found: dict[int, list[int]] = {}
    for row, segment in np.argwhere(batch.examples >= 0).tolist():
        prefix = int(batch.prefixes[row, segment])
        head = [] if prefix < 0 else tokens_of(row, prefix)
        assert prefix < 0 or batch.prefixes[row, prefix] < 0  # what is shared follows nothing itself
        found[int(batch.examples[row, segment])] = head + tokens_of(row, segment)
    return found


@given(
    groups,
    st.integers(1, 64),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([64, 512, 4096]),
    st.booleans(),
)
def test_every_prompt_is_there_once_and_whole(groups, batch_size, ways, most_tokens, fine):
    prompts, queries = make_prompts(groups)
    shapes = make_batch_shapes(600, batch_size, ways)
    plans = plan_packed(prompts, queries, shapes, ways, CONFIG, most_tokens, fine=fine)
    if not plans:
        assume(prompts)  # no room; nothing to pack is nothing to check
        too_long = max(map(len, prompts)) > most_tokens
        assert too_long or ways > 1 or batch_size * FULL_BATCH_WIDTH**2 < 10 * 600**2
        return
    found: dict[int, list[int]] = {}
    assert [plan.area for plan in plans] == sorted((plan.area for plan in plans), reverse=True)
    for plan in plans:
        batch = pad_packed(plan, prompts)
        assert batch.tokens.shape == (ways, plan.tokens)
        assert batch.starts.shape == (ways, plan.segments)
        assert plan.tokens <= most_tokens
        assert (batch.starts + batch.lengths <= plan.tokens).all()
        assert batch.lengths.min() >= 1
        assert batch.lengths.max() <= plan.width
        followed = np.take_along_axis(batch.lengths, np.maximum(batch.prefixes, 0), axis=1)
        assert followed[batch.prefixes >= 0].max(initial=0) <= plan.prefix_width
        part = whole_prompts(batch)
        assert found.keys().isdisjoint(part)
        found |= part
    assert found == {place: prompt.tolist() for place, prompt in enumerate(prompts)}


@given(groups, st.integers(1, 64), st.sampled_from([1, 2, 8]), st.booleans())
def test_attention_takes_no_more_memory_than_a_full_batch(groups, batch_size, ways, fine):
    """Logits of a device, those of segments and those of their ends over the row, padding included."""
    prompts, queries = make_prompts(groups)
    shapes = make_batch_shapes(600, batch_size, ways)
    for plan in plan_packed(prompts, queries, shapes, ways, CONFIG, 4096, fine=fine):
        logits = plan.segments * max(plan.width * (plan.width + plan.prefix_width), plan.tokens)
        fits = logits <= shapes.rows[-1] // ways * FULL_BATCH_WIDTH**2
        assert fits or all(len(members) == 1 for row in plan.rows for _, members in row.parts)


def test_a_long_prompt_in_a_row_of_its_own_is_one_segment():
    prompts, queries = make_prompts([(60, [3000, 20])])
    plans = plan_packed(prompts, queries, make_batch_shapes(4000, 4, 1), 1, CONFIG, 4096, fine=True)
    alone = [pad_packed(plan, prompts) for plan in plans if len(plan.rows[0].parts[0][1]) == 1]
    assert alone
    for batch in alone:
        assert batch.starts.shape == (1, 1)
        assert batch.prefix_width == 0


def test_full_rows_have_next_to_no_filler_and_one_shape():
    """A thousand prompts of fifty queries, as an evaluation's window has them."""
    rng = np.random.default_rng(0)
    drawn = [(50, rng.integers(150, 460, 20).tolist()) for _ in range(50)]
    prompts, queries = make_prompts(drawn)
    shapes = make_batch_shapes(512, 32, 1)
    plans = plan_packed(prompts, queries, shapes, 1, REAL, 4096, fine=True)
    room = sum(plan.tokens for plan in plans)
    least = sum(shared + sum(rests) for shared, rests in drawn)
    again = 50 * sum(len(row.parts) for plan in plans for row in plan.rows) - 50 * 50
    assert least + again <= room <= 1.02 * (least + again)
    assert again <= 0.02 * least
    assert len({plan.tokens for plan in plans}) <= 2


def test_an_accelerator_compiles_few_shapes():
    """Windows of a thousand prompts on eight devices: passages of MS MARCO's lengths, then abstracts."""
    shapes, seen = make_batch_shapes(512, 32 * 8, 8), set()
    for window in range(20):
        rng = np.random.default_rng(window)
        middle = 80 if window % 2 else 350
        drawn = [(50, np.clip(rng.normal(middle, middle / 3, 100), 60, 460).astype(int).tolist())] * 10
        prompts, queries = make_prompts(drawn)
        plans = plan_packed(prompts, queries, shapes, 8, REAL, 32 * 512, fine=False)
        seen |= {(plan.tokens, plan.segments, plan.width, plan.prefix_width) for plan in plans}
        room = sum(8 * plan.tokens for plan in plans)
        assert sum(map(len, prompts)) * 0.6 < room < 1.1 * sum(map(len, prompts))
    assert len(seen) <= 24


def test_few_prompts_are_dealt_to_rows_of_about_one_length():
    """More than a row holds: two halves, rather than a full row and a rest."""
    prompts, queries = make_prompts([(50, [300] * 20)])
    plans = plan_packed(prompts, queries, make_batch_shapes(512, 32, 1), 1, REAL, 4096, fine=True)
    assert [plan.tokens for plan in plans] == [3072, 3072]  # ten of 300 in each, and 50 before them


def render(pairs) -> list[list[int]]:
    """The query's number decides the first tokens, the document's the others and how many."""
    prompts = []
    for query, document in pairs:
        head = np.random.default_rng(int(query)).integers(0, VOCABULARY, PREFIX + int(query))
        rng = np.random.default_rng(1000 + 100 * int(query) + int(document))
        prompts.append([*head, *rng.integers(0, VOCABULARY, rng.integers(1, REST))])
    return prompts


def make_scorer(share_prefixes: bool, devices: int = 1, attention: str = "xla", **axes: int) -> PairScorer:
    model, params = tiny_model(max_positions=128)
    mesh = make_mesh(MeshOptions(**axes), jax.devices()[:devices])
    params = jax.device_put(params, state_shardings(abstract_params(model), mesh))
    return PairScorer(
        model.clone(attention=attention),
        params,
        ANSWERS,
        mesh,
        max_length=96,
        batch_size=16,
        share_prefixes=share_prefixes,
    )


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str], float]:
    """The scores of prompts alone; the tests of the scorer compare those with whole logits."""
    scorer = make_scorer(False)
    scores = scorer.score(render, PAIRS)
    assert {len(shape) for shape in scorer.compiled_shapes} == {2}
    return dict(zip(PAIRS, scores.tolist(), strict=True))


@pytest.mark.parametrize(("devices", "axes"), [(1, {}), (4, {"data": 2, "tensor": 2})])
def test_scores_are_those_of_the_prompts_alone(devices, axes, expected, monkeypatch):
    monkeypatch.setattr(prorank_jax.score_batches, "plan_flops", lambda *_: math.inf)  # packing is less work
    scorer, told = make_scorer(True, devices, **axes), []
    scores = scorer.score(render, PAIRS, told.append)
    assert {len(shape) for shape in scorer.compiled_shapes} == {5}  # packed rows were scored
    np.testing.assert_allclose(scores, [expected[pair] for pair in PAIRS], rtol=0, atol=EXACT)
    assert np.ptp(scores) > 0.1
    assert sum(told) == len(PAIRS)


def test_prompts_of_other_queries_are_packed_whole(expected, monkeypatch):
    monkeypatch.setattr(prorank_jax.score_batches, "plan_flops", lambda *_: math.inf)
    scorer = make_scorer(True)
    mixed = sorted(PAIRS, key=lambda pair: pair[1])  # no query follows itself
    scores = scorer.score(render, mixed)
    assert {shape[-1] for shape in scorer.compiled_shapes} == {0}  # nothing is shared
    np.testing.assert_allclose(scores, [expected[pair] for pair in mixed], rtol=0, atol=EXACT)


def test_the_work_of_packed_rows_is_counted_as_it_is_done():
    """A token of a row runs once, and attention pads each segment and what it follows."""
    weights = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(tiny_model()[1]["layers"])
        if path[-1].key == "kernel"
    )
    plan = PackedPlan(rows=[], count=2, tokens=300, segments=6, width=64, prefix_width=48)
    attention = CONFIG.layers * 2 * 2 * CONFIG.heads * CONFIG.head_dim * 64 * (48 + 64)
    assert plan.flops(CONFIG) == 2 * (2 * weights * 300 + 6 * attention)


@pytest.mark.parametrize("most", [1, 64, 65, 256, 300, 5000])
def test_a_ladder_ends_where_it_is_told(most):
    ladder = width_ladder(most)
    assert ladder[-1] == most
    for length in range(1, ladder[-2] + 1 if len(ladder) > 1 else 1):
        assert next_width(length) == ladder[bisect_left(ladder, length)]
        assert length <= next_width(length) <= max(length + 31, length * 5 // 4)


def test_the_way_of_less_work_is_taken():
    """Many short documents of two queries are packed; prompts that fill a batch as they are, are not."""
    drawn = {5: [(200, [20] * 8)] * 2, 2: [(0, [256])] * 16}
    for axes, of_queries in drawn.items():
        prompts, queries = make_prompts(of_queries)
        model, params = tiny_model(max_positions=256, mlp_dim=1024)  # as in a real one, most of the work
        mesh = make_mesh(MeshOptions(), jax.devices()[:1])
        params = jax.device_put(params, state_shardings(abstract_params(model), mesh))
        scorer = PairScorer(model, params, ANSWERS, mesh, max_length=256, batch_size=16, share_prefixes=True)
        pairs = [(query, str(place)) for place, query in enumerate(queries)]
        scorer.score(lambda given, prompts=prompts: [prompts[int(place)] for _, place in given], pairs)
        assert {len(shape) for shape in scorer.compiled_shapes} == {axes}


def test_a_chunk_may_be_empty(expected):
    scorer = make_scorer(True)
    chunks = [PAIRS[:1], [], PAIRS[1:2]]
    scores = [one.tolist() for one in scorer.score_chunks(render, chunks)]
    assert [len(one) for one in scores] == [1, 0, 1]
    np.testing.assert_allclose(np.concatenate(scores), [expected[pair] for pair in PAIRS[:2]], atol=EXACT)
