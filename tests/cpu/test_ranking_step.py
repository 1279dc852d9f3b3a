"""The step of stage 2: its scores, its gradients, accumulation, low-rank factors, and that it learns."""

from __future__ import annotations

import dataclasses
import itertools
import math
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.config import LoraOptions, MeshOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.lora import combine, merge_factors
from prorank_jax.models.transformer import Transformer
from prorank_jax.ranking_losses import ListLabels, LossOptions, combined_loss, make_losses, weight_totals
from prorank_jax.ranking_step import (
    RankingObjective,
    answer_surprise,
    format_loss,
    list_ndcg,
    make_ranking_step,
)
from prorank_jax.scoring import answered_list_hidden, list_states, relevance_scores, score_from_hidden
from prorank_jax.sharding import make_mesh
from prorank_jax.train_state import all_params, init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch
from tests.cpu.tiny import ANSWERS, VOCABULARY, assert_moved_alike, tiny_model

Q, K, P, S = 4, 3, 8, 7
LORA = LoraOptions(rank=2, alpha=6.0)


def rests(rng: np.random.Generator, lists: int) -> np.ndarray:
    return rng.integers(0, VOCABULARY, (lists, K, S)).astype(np.int32)


def random_lists(seed: int = 0, lists: int = Q) -> ListBatch:
    rng = np.random.default_rng(seed)
    mask = np.ones((lists, K), bool)
    mask[0, 2] = False
    in_batch = np.zeros((lists, K), bool)
    return ListBatch(
        prefix=rng.integers(0, VOCABULARY, (lists, P)).astype(np.int32),
        prefix_lengths=rng.integers(2, P + 1, lists).astype(np.int32),
        tokens=np.pad(rests(rng, lists), ((0, 0), (0, 0), (0, 1))),  # with a place for an answer
        lengths=rng.integers(1, S + 1, (lists, K)).astype(np.int32),
        grades=np.tile(np.array([2.0, 0.0, 1.0], np.float32), (lists, 1)),
        teacher=rng.normal(size=(lists, K)).astype(np.float32),
        mask=mask,
        in_batch=in_batch,
        examples=np.arange(lists * K, dtype=np.int32).reshape(lists, K),
    )


def packed(lists: ListBatch) -> ListBatch:
    """The same lists, each list's documents in one row, with room for an answer behind each, and filler."""
    return dataclasses.replace(lists, row_tokens=int(lists.lengths.sum(axis=1).max()) + K + 2)


def as_they_are(lists: ListBatch) -> ListBatch:
    return lists


either_way = pytest.mark.parametrize("laid_out", [as_they_are, packed])


def as_prompts(lists: ListBatch) -> Batch:
    """Every prompt of the lists by itself, prefix and rest joined."""
    rows = []
    for q in range(lists.tokens.shape[0]):
        for k in range(K):
            head = lists.prefix[q, : lists.prefix_lengths[q]]
            rows.append(np.concatenate([head, lists.tokens[q, k, : lists.lengths[q, k]]]))
    tokens = np.zeros((len(rows), P + S), np.int32)
    for row, prompt in enumerate(rows):
        tokens[row, : len(prompt)] = prompt
    zeros = np.zeros(len(rows), np.int32)
    return Batch(tokens, np.array([len(row) for row in rows], np.int32), zeros, zeros)


def scores(model: Transformer, params, lists: ListBatch) -> jax.Array:
    return jax.jit(lambda p: score_from_hidden(model, p, list_states(model, p, lists), ANSWERS))(params)


def objective(kl: float = 0.0, held_format: float = 0.0, **weights: float) -> RankingObjective:
    losses = make_losses(LossOptions(top_grade=2.0))
    return RankingObjective(losses, weights or {"listwise": 1.0}, kl, held_format)


def build(
    model: Transformer, params, goal: RankingObjective, *, parts: int = 1, devices: int = 1, optimizer=None
):
    mesh = make_mesh(MeshOptions(), jax.devices()[:devices])
    optimizer = optimizer or optax.sgd(1.0)
    step = make_ranking_step(model, optimizer, optax.constant_schedule(1.0), goal, parts, ANSWERS, mesh)
    shardings = train_state_shardings(model, optimizer, mesh)
    where = shardings.frozen if model.lora.rank else shardings.params
    placed = jax.device_put(jax.tree.map(jnp.array, params), where)
    return step, init_state(placed, model, optimizer, shardings)


def with_factors(params, seed: int = 5):
    """A model with low-rank factors and parameters in which both factors are away from zero."""
    model, _ = tiny_model()
    model = model.clone(lora=LORA)
    optimizer = optax.sgd(1.0)
    shardings = train_state_shardings(model, optimizer, make_mesh(MeshOptions(), jax.devices()[:1]))
    state = init_state(jax.tree.map(jnp.array, params), model, optimizer, shardings, seed)
    rng = np.random.default_rng(seed)
    factors = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.2, leaf.dtype), state.params
    )
    return model, factors


@either_way
@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("qwen3", False), ("llama", True)])
def test_shared_prefix_scores_are_those_of_whole_prompts(family, tied, laid_out):
    model, params = tiny_model(family, tied=tied)
    lists = laid_out(random_lists())
    apart = jax.jit(lambda params: relevance_scores(model, params, as_prompts(lists), ANSWERS))(params)
    np.testing.assert_allclose(scores(model, params, lists).ravel(), apart, atol=1e-5)


@either_way
@pytest.mark.parametrize("devices", [0, 1, 2], ids=["no mesh", "one device", "two devices"])
def test_gradients_flow_through_the_shared_prefix_as_through_whole_prompts(laid_out, devices):
    model, params = tiny_model()
    lists = laid_out(random_lists())
    weights = np.random.default_rng(1).normal(size=(Q, K)).astype(np.float32)

    def shared(params):
        states = list_states(model, params, lists, trains=True)
        return (score_from_hidden(model, params, states, ANSWERS) * weights).sum()

    def apart(params):
        return (relevance_scores(model, params, as_prompts(lists), ANSWERS).reshape(Q, K) * weights).sum()

    mesh = jax.set_mesh(make_mesh(MeshOptions(), jax.devices()[:devices])) if devices else nullcontext()
    with mesh:  # of CPUs, for which the whole last layer is run
        ours, wanted = (jax.jit(jax.grad(f))(params) for f in (shared, apart))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max() + 1))


@either_way
def test_an_answer_behind_a_prompt_is_read_as_a_prompt_with_that_answer(laid_out):
    model, params = tiny_model()
    lists = laid_out(random_lists())
    answers = np.random.default_rng(2).integers(0, VOCABULARY, (Q, K)).astype(np.int32)
    apart = as_prompts(lists)
    tokens = np.pad(apart.tokens, ((0, 0), (0, 1)))
    np.put_along_axis(tokens, apart.lengths[:, None], answers.reshape(-1, 1), axis=1)
    answered = Batch(tokens, apart.lengths + 1, apart.labels, apart.examples)

    @jax.jit
    def both(params):
        last, after = answered_list_hidden(model, params, lists, answers)
        return score_from_hidden(model, params, last, ANSWERS), score_from_hidden(
            model, params, after, ANSWERS
        )

    at_prompt, at_answer = both(params)
    np.testing.assert_allclose(at_prompt, scores(model, params, lists), atol=1e-5)
    wanted = jax.jit(lambda params: relevance_scores(model, params, answered, ANSWERS))(params)
    np.testing.assert_allclose(at_answer.ravel(), wanted, atol=1e-5)


@either_way
@pytest.mark.parametrize(
    "goal",
    [
        objective(listwise=1.0, pointwise=0.5),
        objective(0.3, 0.5, pairwise=1.0, listwise=1.0, margin_mse=0.1, info_nce=1.0, preference=1.0),
    ],
)
def test_the_losses_are_those_of_the_scores_and_parts_add_up_to_the_batch(goal, laid_out):
    model, params = tiny_model()
    lists = laid_out(random_lists())
    lists.in_batch[1, 2], lists.mask[1, 2] = True, False
    reference = jax.tree.map(lambda leaf: leaf * 1.1, params) if goal.uses_reference else None
    results = []
    for parts in (1, 2):
        step, state = build(model, params, goal, parts=parts)
        results.append(step(state, reference, lists))
    (whole, told), (state, metrics) = results
    labels = ListLabels(lists.grades, lists.teacher, lists.mask, lists.in_batch)
    initial = None if reference is None else scores(model, reference, lists)
    totals = weight_totals(labels, goal.weights, goal.losses)
    _, expected = combined_loss(
        scores(model, params, lists), initial, labels, goal.weights, totals, goal.losses
    )
    for name, value in expected.items():
        np.testing.assert_allclose(told[name], value, rtol=1e-4, err_msg=name)
    for name, value in told.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert_moved_alike(params, state.params, whole.params)


@either_way
def test_devices_and_parts_give_what_one_device_gives_at_once(laid_out):
    model, params = tiny_model()
    goal = objective(0.2, listwise=1.0)
    reference = jax.tree.map(lambda leaf: leaf * 1.1, params)
    one, state = build(model, params, goal)
    expected, wanted = one(state, reference, random_lists())  # padded
    step, state = build(model, params, goal, devices=2, parts=2)
    got, metrics = step(state, reference, laid_out(random_lists()))
    for name, value in wanted.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert_moved_alike(params, got.params, expected.params)


def test_kl_starts_at_zero_and_holds_the_policy_back():
    model, params = tiny_model()
    moved = {}
    for coefficient in (1e-6, 10.0):
        step, state = build(model, params, objective(coefficient, listwise=1.0), optimizer=optax.sgd(0.02))
        for number in range(10):
            state, metrics = step(state, params, random_lists())
            if number == 0:
                assert abs(float(metrics["kl"])) < 1e-6
        moved[coefficient] = float(metrics["kl"])
    assert 0 < moved[10.0] < 0.2 * moved[1e-6]


def test_the_format_term_is_the_surprise_at_an_answer():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 40)) * 4, jnp.float32)
    shares = jax.nn.softmax(logits, axis=-1)
    either = shares[..., ANSWERS.zero] + shares[..., ANSWERS.one]
    np.testing.assert_allclose(answer_surprise(logits, ANSWERS), -jnp.log(either), rtol=1e-5)


def test_the_format_loss_is_what_a_whole_answer_costs():
    logits, after = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 40)) * 4, jnp.float32)
    answer, ending = jax.nn.softmax(logits, axis=-1), jax.nn.softmax(after, axis=-1)
    chance = (answer[..., ANSWERS.zero] + answer[..., ANSWERS.one]) * ending[..., ANSWERS.end]
    np.testing.assert_allclose(format_loss(logits, after, ANSWERS), -jnp.log(chance), rtol=1e-5)


def test_the_format_term_does_not_pull_on_the_score_of_a_sure_answer():
    logits = jnp.full(40, -30.0).at[ANSWERS.zero].set(1.0).at[ANSWERS.one].set(3.0)
    pull = jax.grad(lambda given: answer_surprise(given, ANSWERS))(logits)
    np.testing.assert_allclose(pull, 0, atol=1e-6)


def wrong_answers_and_endings(model: Transformer, params, lists: ListBatch) -> tuple[float, float]:
    """How likely no answer is at all, and none but the end of the turn behind the answers asked for."""
    asked = np.where(lists.grades >= 1, ANSWERS.one, ANSWERS.zero).astype(np.int32)

    def chances(params):
        states = answered_list_hidden(model, params, lists, asked)
        return [
            jax.nn.softmax(model.apply({"params": params}, state, method="answer_logits"), axis=-1)
            for state in states
        ]

    answer, ending = jax.jit(chances)(params)
    said = answer[..., ANSWERS.zero] + answer[..., ANSWERS.one]
    return float(1 - said.mean()), float(1 - ending[..., ANSWERS.end].mean())


def test_the_format_is_held_without_a_reference():
    model, params = tiny_model()
    missed, wrong = {}, {}
    for coefficient in (1e-6, 1.0):
        goal = objective(held_format=coefficient, listwise=1.0)
        step, state = build(model, params, goal, optimizer=optax.sgd(0.05))
        for _ in range(20):
            state, metrics = step(state, None, random_lists())
        missed[coefficient] = float(metrics["format_loss"])
        wrong[coefficient] = wrong_answers_and_endings(model, state.params, random_lists())
    assert 0 <= missed[1.0] < 0.5 * missed[1e-6]
    assert np.all(np.array(wrong[1.0]) < 0.5 * np.array(wrong[1e-6]))


@partial(jax.jit, static_argnums=0)
def plain_format_loss(model: Transformer, params, prompts: Batch, mask: jax.Array, answers: jax.Array):
    """Of whole sequences, each with its answer [Q, K] behind it: the mean over the real documents."""
    rows, places = jnp.arange(len(prompts.lengths)), prompts.lengths
    tokens = jnp.pad(prompts.tokens, ((0, 0), (0, 1))).at[rows, places].set(answers.ravel())
    hidden, _ = model.apply({"params": params}, tokens, prompt_layout(places + 1, tokens.shape[1]))
    chances = jax.nn.softmax(hidden @ params["embedding"].T)
    said, ended = chances[rows, places - 1], chances[rows, places, ANSWERS.end]
    costs = -jnp.log(said[:, ANSWERS.zero] + said[:, ANSWERS.one]) - jnp.log(ended)
    return jnp.average(costs, weights=mask.ravel())


def test_a_grade_is_relevant_from_the_collections_own_limit():
    """Grade 1 asks for `0` where 2 is the lowest relevant grade, and the end of the turn behind that."""
    model, params = tiny_model()
    lists, losses = random_lists(), set()
    for limit in (1.0, 2.0, 3.0):
        goal = dataclasses.replace(objective(held_format=1.0, listwise=1.0), relevant_grade=limit)
        step, state = build(model, params, goal)
        found = float(step(state, None, lists)[1]["format_loss"])
        answers = np.array([[ANSWERS.one if grade >= limit else ANSWERS.zero for grade in (2, 0, 1)]] * Q)
        expected = plain_format_loss(model, params, as_prompts(lists), lists.mask, answers)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        losses.add(found)
    assert len(losses) == 3


@pytest.mark.parametrize("lora", [LoraOptions(), LORA])
def test_the_order_of_the_documents_is_learned(lora):
    model, params = tiny_model()
    model = model.clone(lora=lora)
    step, state = build(model, params, objective(), optimizer=optax.adam(0.02))
    history = []
    for _ in range(25):
        state, metrics = step(state, None, random_lists())
        history.append({name: float(value) for name, value in metrics.items()})
    assert history[-1]["ndcg"] > 0.99 > history[0]["ndcg"]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[0]["grad_norm"] > 0
    assert int(state.step) == 25


def test_low_rank_factors_start_at_the_pretrained_model_and_leave_it_alone():
    model, params = tiny_model()
    low_rank = model.clone(lora=LORA)
    step, state = build(low_rank, params, objective(0.5), optimizer=optax.adam(0.02))
    lists = random_lists()
    whole = all_params(state)
    np.testing.assert_allclose(scores(low_rank, whole, lists), scores(model, params, lists), atol=1e-6)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert size < 0.5 * sum(leaf.size for leaf in jax.tree.leaves(params))
    state, metrics = step(state, None, lists)  # the frozen part is the reference of the KL
    assert abs(float(metrics["kl"])) < 1e-6
    state, metrics = step(state, None, lists)
    assert float(metrics["kl"]) > 1e-6
    for a, b in zip(jax.tree.leaves(state.frozen), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_of_factors_are_those_of_the_merged_maps():
    plain, params = tiny_model()
    model, factors = with_factors(params)
    lists = random_lists()

    def loss(factors):
        whole = combine(params, factors)
        return score_from_hidden(model, whole, list_states(model, whole, lists, trains=True), ANSWERS).sum()

    def merged_loss(factors):
        whole = merge_factors(combine(params, factors), LORA.scale)
        return score_from_hidden(plain, whole, list_states(plain, whole, lists), ANSWERS).sum()

    ours, wanted = (jax.jit(jax.grad(f))(factors) for f in (loss, merged_loss))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max() + 1))


def test_ndcg_of_a_list():
    scores = jnp.array([[3.0, 2.0, 1.0, 9.0], [1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    grades = jnp.array([[2.0, 1.0, 0.0, 5.0], [2.0, 1.0, 0.0, 5.0], [0.0, -1.0, 0.0, 0.0]])
    mask = jnp.array([[True, True, True, False]] * 3)
    second = (0 + 1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    np.testing.assert_allclose(list_ndcg(scores, grades, mask), [1.0, second, 0.0], rtol=1e-6)


def dcg(grades: list[float]) -> float:
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades, start=1))


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, math.inf]), st.integers(-1, 3), st.booleans()),
        min_size=5,
        max_size=5,
    )
)
def test_ndcg_of_ties_is_the_mean_over_their_orders(documents):
    scores, grades, mask = (np.array([column]) for column in zip(*documents, strict=True))
    real = [(score, max(grade, 0)) for score, grade, is_real in documents if is_real]
    ideal = dcg(sorted((grade for _, grade in real), reverse=True))
    # Sorting is stable: each order of the list orders its ties in its own way.
    orders = [sorted(order, key=lambda pair: -pair[0]) for order in itertools.permutations(real)]
    mean = np.mean([dcg([grade for _, grade in order]) for order in orders])
    found = list_ndcg(jnp.asarray(scores, jnp.float32), jnp.asarray(grades, jnp.float32), jnp.asarray(mask))
    np.testing.assert_allclose(found, [mean / ideal if ideal else 0.0], rtol=1e-5, atol=1e-6)


def test_ndcg_of_a_list_with_a_score_that_is_no_number_is_none():
    scores = jnp.array([[np.nan, 1.0, 0.0], [2.0, 1.0, np.nan]])
    grades, mask = jnp.array([[1.0, 0.0, 0.0]] * 2), jnp.array([[True, True, True], [True, True, False]])
    np.testing.assert_array_equal(list_ndcg(scores, grades, mask), [np.nan, 1.0])


def format_and_kl(model: Transformer, params, reference, lists: ListBatch) -> tuple[np.ndarray, np.ndarray]:
    """What a whole answer costs at each document, and KL(policy ‖ reference) there: [Q, K] both."""
    asked = np.where(lists.grades >= 1, ANSWERS.one, ANSWERS.zero).astype(np.int32)

    @jax.jit
    def both(params, reference):
        states = (*answered_list_hidden(model, params, lists, asked), list_states(model, reference, lists))
        logits, after, start = (
            model.apply({"params": used}, state, method="answer_logits")
            for used, state in zip((params, params, reference), states, strict=True)
        )
        log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(start)
        return format_loss(logits, after, ANSWERS), (jnp.exp(log_p) * (log_p - log_q)).sum(-1)

    return tuple(map(np.asarray, both(params, reference)))


def test_an_empty_place_counts_in_no_metric_and_metrics_are_means_over_the_others():
    model, params = tiny_model()
    goal = objective(0.3, 0.5, listwise=1.0)
    reference = jax.tree.map(lambda leaf: leaf * 1.1, params)
    step, _ = build(model, params, goal)
    told = []
    for token in (1, 2):
        lists = random_lists()
        lists.tokens[0, 2, : lists.lengths[0, 2]] = token  # of a place that is masked
        lists.grades[1] = 0.0  # as where only a teacher teaches: no order of this list is right
        metrics = step(build(model, params, goal)[1], reference, lists)[1]
        told.append({name: float(value) for name, value in metrics.items()})
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    given = scores(model, params, lists)
    orders = np.asarray(list_ndcg(given, jnp.asarray(lists.grades), jnp.asarray(lists.mask)))
    assert told[1]["ndcg"] == pytest.approx(np.delete(orders, 1).mean(), rel=1e-5)
    real = np.asarray(given)[lists.mask]
    assert told[1]["score"] == pytest.approx(real.mean(), abs=1e-4)
    assert told[1]["score_deviation"] == pytest.approx(real.std(), rel=1e-3)
    missed, divergence = format_and_kl(model, params, reference, lists)
    assert told[1]["format_loss"] == pytest.approx(missed[lists.mask].mean(), rel=1e-4)
    assert told[1]["kl"] == pytest.approx(divergence[lists.mask].mean(), rel=1e-4)
    whole = told[1]["listwise"] + 0.3 * told[1]["kl"] + 0.5 * told[1]["format_loss"]
    assert told[1]["loss"] == pytest.approx(whole, rel=1e-5)
