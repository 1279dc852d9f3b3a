"""Lists of prompts hold every prompt whole, and give the scores of the prompts alone."""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prorank_jax.scorer
from prorank_jax import batch_shapes
from prorank_jax.batch_shapes import FULL_BATCH_WIDTH, make_batch_shapes
from prorank_jax.config import MeshOptions
from prorank_jax.flops import forward_flops
from prorank_jax.models.transformer import abstract_params
from prorank_jax.scorer import PairScorer
from prorank_jax.sharding import make_mesh, state_shardings
from prorank_jax.shared_prefix import LIST_SIZE, ListPlan, make_lists, pad_lists, plan_lists, shared_length
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_model

EXACT = 1e-5
CONFIG = tiny_model()[0].config
PREFIX, REST = 40, 24
PAIRS = [(str(query), str(document)) for query in range(5) for document in range(9)]

groups = st.lists(st.tuples(st.integers(0, 300), st.lists(st.integers(1, 300), min_size=1, max_size=9)))


def make_prompts(groups: list[tuple[int, list[int]]]) -> tuple[list[np.ndarray], list[str]]:
    """Prompts and queries: of each group so many shared tokens, and so many others of each prompt."""
    prompts, queries = [], []
    for number, (shared, rests) in enumerate(groups):
        rng = np.random.default_rng(number)
        head = rng.integers(0, VOCABULARY, shared)
        for rest in rests:
            prompts.append(np.concatenate([head, rng.integers(0, VOCABULARY, rest)]).astype(np.int32))
            queries.append(f"query {number}")
    return prompts, queries


def whole_prompts(batch) -> dict[int, list[int]]:
    """place → its prompt, as a batch has it."""
    found = {}
    for row, column in itertools.product(*map(range, batch.examples.shape)):
        if batch.mask[row, column]:
            head = batch.prefix[row, : batch.prefix_lengths[row]]
            rest = batch.tokens[row, column, : batch.lengths[row, column]]
            found[int(batch.examples[row, column])] = [*head.tolist(), *rest.tolist()]
    return found


@given(groups, st.integers(1, 64), st.sampled_from([1, 2, 8]))
def test_every_prompt_is_there_once_and_whole(groups, batch_size, ways):
    prompts, queries = make_prompts(groups)
    shapes = make_batch_shapes(600, batch_size, ways)
    plans = plan_lists(prompts, queries, shapes, ways, CONFIG)
    if plans is None:
        assert all(rows % (LIST_SIZE * ways) for rows in shapes.rows)
        return
    found: dict[int, list[int]] = {}
    least = min(rows for rows in shapes.rows if rows % (LIST_SIZE * ways) == 0)
    areas = [plan.rows * (plan.prefix + plan.width) ** 2 for plan in plans]
    assert areas == sorted(areas, reverse=True)
    for plan in plans:
        batch = pad_lists(plan, prompts)
        rows = plan.rows * LIST_SIZE
        assert batch.tokens.shape == (plan.rows, LIST_SIZE, plan.width)
        assert rows in shapes.rows
        assert plan.rows % ways == 0
        assert {plan.prefix, plan.width} <= set(shapes.widths)
        area = rows * (plan.prefix + plan.width) ** 2
        assert area <= shapes.rows[-1] * FULL_BATCH_WIDTH**2 or rows == least
        assert batch.lengths.min() >= 1
        part = whole_prompts(batch)
        assert found.keys().isdisjoint(part)
        found |= part
    assert found == {place: prompt.tolist() for place, prompt in enumerate(prompts)}


def every_cut(lists, counts, shapes):
    """All the ways to cut lists sorted by length into batches that may be."""
    if not lists:
        yield []
        return
    for rows in counts:
        chosen = lists[:rows]
        prefix = shapes.width_for(max(one.shared for one in chosen))
        plan = ListPlan(chosen, rows, prefix, shapes.width_for(chosen[0].rest))
        if rows == counts[0] or rows * LIST_SIZE * (prefix + plan.width) ** 2 <= bound_of(shapes):
            for others in every_cut(lists[rows:], counts, shapes):
                yield [plan, *others]


def bound_of(shapes) -> int:
    return shapes.rows[-1] * FULL_BATCH_WIDTH**2


def cost_of(plans) -> int:
    overhead = forward_flops(CONFIG, batch_shapes._BATCH_OVERHEAD, 0)
    return sum(plan.flops(CONFIG) + overhead for plan in plans)


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.lists(st.integers(1, 300), min_size=1, max_size=4)),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from([4, 12, 16]),
)
def test_no_other_cut_is_less_work(groups, batch_size):
    prompts, queries = make_prompts(groups)
    shapes = make_batch_shapes(600, batch_size, 1)
    lists = sorted(make_lists(prompts, queries), key=lambda one: (-one.rest, -one.shared))
    counts = [rows // LIST_SIZE for rows in shapes.rows if rows % LIST_SIZE == 0]
    plans = plan_lists(prompts, queries, shapes, 1, CONFIG)
    assert plans is not None
    assert cost_of(plans) == min(cost_of(cut) for cut in every_cut(lists, counts, shapes))


@given(groups)
def test_a_list_has_one_query_and_shares_what_its_prompts_do(groups):
    prompts, queries = make_prompts(groups)
    for one in make_lists(prompts, queries):
        assert 1 <= len(one.places) <= LIST_SIZE
        (query,) = {queries[place] for place in one.places}
        number = int(query.removeprefix("query "))
        shortest = min(len(prompt) for prompt, other in zip(prompts, queries, strict=True) if other == query)
        assert min(groups[number][0], shortest - 1) <= one.shared < shortest
        assert one.rest == max(len(prompts[place]) for place in one.places) - one.shared


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2], [1, 2, 3]], 1),
        ([[1], [1]], 0),
        ([[5, 6, 7]], 2),
        ([[1, 2], [3, 2]], 0),
    ],
)
def test_one_token_of_each_prompt_is_its_own(prompts, shared):
    assert shared_length([np.array(prompt) for prompt in prompts]) == shared


def render(pairs) -> list[list[int]]:
    """The query's number decides the first tokens, the document's the others and how many."""
    prompts = []
    for query, document in pairs:
        head = np.random.default_rng(int(query)).integers(0, VOCABULARY, PREFIX + int(query))
        rng = np.random.default_rng(1000 + 100 * int(query) + int(document))
        prompts.append([*head, *rng.integers(0, VOCABULARY, rng.integers(1, REST))])
    return prompts


def make_scorer(share_prefixes: bool, devices: int = 1, **axes: int) -> PairScorer:
    model, params = tiny_model(max_positions=128)
    mesh = make_mesh(MeshOptions(**axes), jax.devices()[:devices])
    params = jax.device_put(params, state_shardings(abstract_params(model), mesh))
    return PairScorer(
        model, params, ANSWERS, mesh, max_length=96, batch_size=16, share_prefixes=share_prefixes
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
    monkeypatch.setattr(prorank_jax.scorer, "plan_flops", lambda *_: math.inf)  # lists are less work
    scorer, told = make_scorer(True, devices, **axes), []
    scores = scorer.score(render, PAIRS, told.append)
    assert {len(shape) for shape in scorer.compiled_shapes} == {3}  # lists were scored, not prompts
    np.testing.assert_allclose(scores, [expected[pair] for pair in PAIRS], rtol=0, atol=EXACT)
    assert np.ptp(scores) > 0.1
    assert sum(told) == len(PAIRS)


def test_prompts_that_share_nothing_are_scored_alone(expected):
    scorer = make_scorer(True)
    mixed = sorted(PAIRS, key=lambda pair: pair[1])  # no query follows itself
    scores = scorer.score(render, mixed)
    assert {len(shape) for shape in scorer.compiled_shapes} == {2}
    np.testing.assert_allclose(scores, [expected[pair] for pair in mixed], rtol=0, atol=EXACT)


def test_many_pairs_on_a_cpu_are_padded_less():
    few, many = make_scorer(False).shapes.widths, make_scorer(True).shapes.widths
    assert few == (32, 64, 96)
    assert many == (16, 32, 48, 64, 80, 96)


def test_lists_are_scored_where_that_is_less_work():
    """Two queries of eight documents: 200 tokens that are the query's and 20 of each document."""
    model, params = tiny_model(max_positions=256)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    params = jax.device_put(params, state_shardings(abstract_params(model), mesh))
    scorer = PairScorer(model, params, ANSWERS, mesh, max_length=256, batch_size=16, share_prefixes=True)
    prompts, queries = make_prompts([(200, [20] * 8)] * 2)
    pairs = [(query, str(place)) for place, query in enumerate(queries)]
    scorer.score(lambda given: [prompts[int(place)].tolist() for _, place in given], pairs)
    assert {len(shape) for shape in scorer.compiled_shapes} == {3}


def test_the_work_of_lists_is_counted_as_it_is_done():
    """A shared token runs once for each list, and each document's own over all before them."""
    config = tiny_model()[0].config
    weights = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(tiny_model()[1]["layers"])
        if path[-1].key == "kernel"
    )

    def run(tokens: int, keys: int) -> int:
        channels = config.heads * config.head_dim
        return 2 * weights * tokens + config.layers * 2 * 2 * channels * tokens * keys

    plan = ListPlan(lists=[], rows=3, prefix=48, width=32)
    assert plan.flops(config) == 3 * (run(48, 48) + 4 * run(32, 48 + 32))
