"""Ranking losses against rax, and what must hold for any lists: masks, order, shifts, parts of a batch."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.ranking_losses import (
    LOSSES,
    ListLabels,
    LossOptions,
    combined_loss,
    learns_level,
    list_weights,
    make_losses,
    needs_reference,
    needs_teacher,
    parse_losses,
    weight_totals,
)

NAMES = tuple(LOSSES)
COMPARE_GRADES = ("listwise", "pairwise", "preference")
SHIFT_INVARIANT = tuple(name for name in NAMES if name != "pointwise")
OPTIONS = LossOptions(relevant_grade=2, top_grade=3, soft_label="teacher_logit", beta=0.3)
Q, K = 6, 7
GARBAGE = (np.nan, np.inf, -np.inf, 1e38)


def random_lists(
    seed: int, scale: float = 3.0, queries: int = Q
) -> tuple[np.ndarray, np.ndarray, ListLabels]:
    """Scores, reference scores and labels; nonsense wherever nothing may look."""
    rng = np.random.default_rng(seed)
    shape = (queries, K)
    mask = rng.random(shape) < rng.choice([0.0, 0.3, 0.8, 1.0], (queries, 1))
    in_batch = ~mask & (rng.random(shape) < 0.4)
    nonsense = rng.choice(GARBAGE, shape)
    highest = rng.choice([1, 4], (queries, 1))  # 1: every grade is 0 or below
    grades = np.where(mask, rng.integers(-1, highest, shape), nonsense).astype(np.float32)
    has_teacher = mask & (rng.random(shape) < rng.choice([0.0, 0.5, 1.0], (queries, 1)))
    teacher = np.where(has_teacher, rng.normal(0, 2, shape), np.nan).astype(np.float32)
    real = mask | in_batch
    scores = np.where(real, rng.normal(0, scale, shape), nonsense).astype(np.float32)
    reference = np.where(mask, rng.normal(0, scale, shape), nonsense).astype(np.float32)
    return scores, reference, ListLabels(grades, teacher, mask, in_batch)


@functools.cache
def _compiled(name: str, options: LossOptions = OPTIONS):
    loss = make_losses(options)[name]

    def total(scores, reference, labels):
        values, weights = loss(scores, reference, labels)
        return (values * weights).sum(), (values, weights)

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def evaluate(name, scores, reference, labels, options=OPTIONS):
    """Values [Q], weights [Q] and the gradient [Q, K] of Σ values · weights."""
    (_, (values, weights)), gradient = _compiled(name, options)(scores, reference, labels)
    return np.asarray(values), np.asarray(weights), np.asarray(gradient)


def _rax_loss(name: str, scores, reference, grades, teacher, mask, in_batch):
    """The same of one list [K] by rax, from labels without nonsense."""
    positive = jnp.maximum(grades, 0)
    scored = mask & ~jnp.isnan(teacher)
    known = jnp.where(scored, teacher, 0.0)
    pairs = rax.utils.compute_pairs
    gaps = jax.nn.relu(pairs(positive, operator.sub)) * pairs(mask, operator.and_)
    if name == "listwise":
        normalise = rax.utils.normalize_probabilities
        return rax.softmax_loss(scores, positive, where=mask, label_fn=normalise)
    if name == "listwise_teacher":
        targets = jax.nn.softmax(known, where=scored)
        return rax.softmax_loss(scores, targets, where=scored)
    if name == "pairwise":

        def grade_gap(_, labels, **__):
            return pairs(labels, operator.sub)

        loss = rax.pairwise_logistic_loss(
            scores, positive, where=mask, lambdaweight_fn=grade_gap, reduce_fn=jnp.sum
        )
        return loss / gaps.sum()
    if name == "preference":
        gains = OPTIONS.beta * (scores - reference)
        return rax.pairwise_logistic_loss(gains, positive, where=mask)
    if name == "margin_mse":
        both_orders = rax.pairwise_mse_loss(scores, known, where=scored, reduce_fn=jnp.sum)
        return both_orders / (scored.sum() * (scored.sum() - 1))
    if name == "pointwise":
        soft = jnp.where(scored, jax.nn.sigmoid(known), positive / OPTIONS.top_grade)
        return rax.pointwise_sigmoid_loss(scores, soft, where=mask)
    relevant = jnp.where(mask, grades >= OPTIONS.relevant_grade, 0).astype(jnp.float32)
    where = mask | in_batch
    loss = rax.unique_softmax_loss(scores, relevant, where=where, gain_fn=lambda y: y, reduce_fn=jnp.sum)
    return loss / relevant.sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_parity_with_rax_on_masked_lists(name, scale):
    """Value and gradient of every list that counts."""
    scores, reference, labels = random_lists(seed=NAMES.index(name) + 1, scale=scale, queries=24)
    values, weights, gradient = evaluate(name, scores, reference, labels)
    assert (weights > 0).sum() >= 6
    assert (weights == 0).any()
    oracle = jax.jit(jax.value_and_grad(functools.partial(_rax_loss, name)))
    for q in np.flatnonzero(weights):
        real = labels.mask[q] | labels.in_batch[q]
        tidy = [np.where(real, x[q], 0) for x in (scores, reference, labels.grades)]
        tidy[1:] = [np.where(labels.mask[q], x, 0) for x in tidy[1:]]
        expected, slope = oracle(*tidy, labels.teacher[q], labels.mask[q], labels.in_batch[q])
        np.testing.assert_allclose(values[q], expected, rtol=2e-5, atol=1e-6)
        largest = np.abs(slope).max()
        np.testing.assert_allclose(gradient[q] / weights[q], slope, rtol=2e-5, atol=1e-6 * max(largest, 1))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e4]))
@settings(max_examples=25)
def test_everything_is_finite_and_nothing_leaks(name, seed, scale):
    scores, reference, labels = random_lists(seed, scale)
    values, weights, gradient = evaluate(name, scores, reference, labels)
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()
    assert (values >= 0).all()
    counted = labels.mask | labels.in_batch if name == "info_nce" else labels.mask
    assert not gradient[~counted].any()
    assert not values[weights == 0].any()
    assert not gradient[weights == 0].any()
    np.testing.assert_array_equal(weights, list_weights(name, labels, make_losses(OPTIONS)))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_the_order_of_a_list_does_not_matter(name, seed):
    lists = random_lists(seed)
    order = np.argsort(np.random.default_rng(seed).random((Q, K)), axis=1)
    shuffled = jax.tree.map(lambda x: np.take_along_axis(x, order, axis=1), lists)
    values, weights, gradient = evaluate(name, *lists)
    values_after, weights_after, gradient_after = evaluate(name, *shuffled)
    np.testing.assert_array_equal(weights_after, weights)
    np.testing.assert_allclose(values_after, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        gradient_after, np.take_along_axis(gradient, order, axis=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_padding_does_not_matter(name, seed):
    scores, reference, labels = random_lists(seed)
    extra = np.random.default_rng(seed).choice(GARBAGE, (Q, 3)).astype(np.float32)

    def widen(array):
        filling = np.zeros((Q, 3), bool) if array.dtype == bool else extra
        return np.concatenate([array, filling], axis=1)

    values, weights, gradient = evaluate(name, scores, reference, labels)
    wide = jax.tree.map(widen, (scores, reference, labels))
    values_after, weights_after, gradient_after = evaluate(name, *wide)
    np.testing.assert_array_equal(weights_after, weights)
    np.testing.assert_allclose(values_after, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient_after[:, :K], gradient, rtol=1e-4, atol=1e-5)
    assert not gradient_after[:, K:].any()


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50, width=32))
@settings(max_examples=15)
def test_only_differences_of_scores_matter(name, seed, shift):
    scores, reference, labels = random_lists(seed)
    values, _, gradient = evaluate(name, scores, reference, labels)
    shifted, _, _ = evaluate(name, scores + np.float32(shift), reference, labels)
    np.testing.assert_allclose(shifted, values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-4)


def test_pointwise_learns_the_level_of_scores():
    scores, _, labels = random_lists(3)
    values, weights, _ = evaluate("pointwise", scores, None, labels)
    shifted, _, _ = evaluate("pointwise", scores + 5, None, labels)
    assert (np.abs(shifted - values)[weights > 0] > 0.1).any()


def graded_lists() -> ListLabels:
    """One list with the grades 3 2 1 0 and a teacher who agrees."""
    grades = np.array([[3, 2, 1, 0]], np.float32)
    mask = np.ones((1, 4), bool)
    return ListLabels(grades, grades - 1, mask, ~mask)


@pytest.mark.parametrize("name", NAMES)
def test_descent_lifts_the_best_and_lowers_the_worst(name):
    scores = np.zeros((1, 4), np.float32)
    _, _, gradient = evaluate(name, scores, scores, graded_lists())
    assert gradient[0, 0] < 0 < gradient[0, 3]


@pytest.mark.parametrize("name", NAMES)
def test_the_right_order_costs_least(name):
    right = np.array([[1.5, 0.5, -0.5, -1.5]], np.float32)
    reference = np.zeros_like(right)
    costs = [
        evaluate(name, right[:, order], reference, graded_lists())[0][0]
        for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0])
    ]
    assert costs[0] <= costs[1] < costs[2]


@pytest.mark.parametrize("name", COMPARE_GRADES)
def test_a_list_of_equal_grades_says_nothing(name):
    for grade in (-2.0, 0.0, 1.0):
        labels = graded_lists().replace(grades=np.full((1, 4), grade, np.float32))
        assert list_weights(name, labels) == 0
    one = graded_lists().replace(mask=np.array([[True, False, False, False]]))
    assert list_weights(name, one) == 0


def test_weights_of_the_other_losses():
    labels = graded_lists()
    alone = labels.replace(mask=np.array([[True, False, False, False]]))
    borrowed = alone.replace(in_batch=np.array([[False, True, False, False]]))
    assert [list_weights("info_nce", x)[0] for x in (labels, alone, borrowed)] == [1, 0, 1]
    assert [list_weights("pointwise", x)[0] for x in (labels, alone)] == [4, 1]
    teacher = np.array([[0.0, np.nan, np.inf, np.nan]], np.float32)
    for name in ("margin_mse", "listwise_teacher"):
        assert list_weights(name, labels) == 1
        assert list_weights(name, labels.replace(teacher=teacher)) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pointwise"])
def test_scores_of_a_list_that_says_nothing_are_never_looked_at(name):
    """Beside it stands a list that counts."""
    mask = np.ones((2, 4), bool)
    grades = np.array([[3, 2, 1, 0], [2, 2, 2, 2]], np.float32)
    teacher = np.array([[3, 2, 1, 0], [1, np.nan, np.nan, np.nan]], np.float32)
    scores = np.array([[1, 2, 3, 4], GARBAGE], np.float32)
    values, weights, gradient = evaluate(name, scores, scores, ListLabels(grades, teacher, mask, ~mask))
    np.testing.assert_array_equal(weights, [1, 0])
    assert np.isfinite(gradient).all()
    assert gradient[0].any()
    assert values[1] == 0
    assert not gradient[1].any()


def test_info_nce_leaves_other_relevant_documents_out():
    """Two relevant documents of the scores 2 and 0, negatives 1 (own) and −1 (borrowed)."""
    scores = np.array([[2.0, 0.0, 1.0, -1.0]], np.float32)
    mask = np.array([[True, True, True, False]])
    labels = ListLabels(np.array([[1, 2, 0, 3]], np.float32), np.full((1, 4), np.nan), mask, ~mask)
    (value,), _ = LOSSES["info_nce"](scores, None, labels)
    against = np.exp(1) + np.exp(-1)
    terms = [-np.log(np.exp(s) / (np.exp(s) + against)) for s in (2.0, 0.0)]
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-6)


def test_the_preference_is_measured_from_the_reference():
    scores, reference, labels = random_lists(5)
    values, weights, gradient = evaluate("preference", scores, scores, labels)
    np.testing.assert_allclose(values, np.log(2) * weights, rtol=1e-6)
    _, _, elsewhere = evaluate("preference", reference, reference, labels)
    np.testing.assert_allclose(elsewhere, gradient, atol=1e-6)
    slope = jax.grad(lambda r: LOSSES["preference"](scores, r, labels)[0].sum())(jnp.asarray(reference))
    assert not np.asarray(slope).any()


@pytest.mark.parametrize(
    ("soft_label", "expected"),
    [("grade", [1.0, 0.5, 0.0]), ("teacher", [0.25, 0.5, 1.0]), ("teacher_logit", [0.5622, 0.5, 0.9526])],
)
def test_soft_labels(soft_label, expected):
    """Where a score's sigmoid is the label, the gradient of binary cross entropy vanishes."""
    grades, teacher = np.array([[2, 1, 0]], np.float32), np.array([[0.25, np.nan, 3.0]], np.float32)
    mask = np.ones((1, 3), bool)
    options = LossOptions(top_grade=2, soft_label=soft_label)
    scores = np.zeros((1, 3), np.float32)
    _, _, gradient = evaluate("pointwise", scores, None, ListLabels(grades, teacher, mask, ~mask), options)
    np.testing.assert_allclose(0.5 - gradient[0], expected, atol=1e-4)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_parts_of_a_batch_add_up_to_it(seed):
    scores, reference, labels = random_lists(seed, queries=8)
    weights = {name: 0.5 + i for i, name in enumerate(NAMES)}
    totals = weight_totals(labels, NAMES)
    step = _combined_step(tuple(weights.items()))
    (loss, values), gradient = step(scores, reference, labels, totals)
    order = np.random.default_rng(seed).permutation(8)
    parts = []
    for rows in order.reshape(4, 2):
        parts.append(step(*jax.tree.map(lambda x, rows=rows: x[rows], (scores, reference, labels)), totals))
    (losses, values_of_parts), gradients = jax.tree.map(lambda *x: np.stack(x), *parts)
    np.testing.assert_allclose(losses.sum(), loss, rtol=1e-5)
    for name in NAMES:
        np.testing.assert_allclose(values_of_parts[name].sum(), values[name], rtol=1e-5, atol=1e-7)
    whole = np.asarray(gradient)[order].reshape(4, 2, K)
    np.testing.assert_allclose(gradients, whole, rtol=1e-6, atol=1e-8)


@functools.cache
def _combined_step(weights):
    def total(scores, reference, labels, totals):
        return combined_loss(scores, reference, labels, dict(weights), totals)

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def test_the_combination_is_a_weighted_mean_over_lists_that_count():
    scores, reference, labels = random_lists(11)
    totals = weight_totals(labels, NAMES)
    loss, parts = combined_loss(scores, reference, labels, {"listwise": 2.0, "pointwise": 0.5}, totals)
    for name, value in parts.items():
        values, weights = LOSSES[name](scores, reference, labels)
        np.testing.assert_allclose(value, np.average(values, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(loss, 2 * parts["listwise"] + 0.5 * parts["pointwise"], rtol=1e-6)


def test_a_weight_of_zero_only_reports():
    """Even a loss that overflows changes nothing then."""
    scores, reference, labels = random_lists(12)
    labels = labels.replace(teacher=labels.teacher * np.float32(1e30))
    totals = weight_totals(labels, NAMES)
    step = _combined_step((("pairwise", 1.0), ("margin_mse", 0.0)))
    (loss, parts), gradient = step(scores, reference, labels, totals)
    (alone, _), gradient_alone = _combined_step((("pairwise", 1.0),))(scores, reference, labels, totals)
    assert parts["margin_mse"] == np.inf
    assert loss == alone > 0
    np.testing.assert_array_equal(gradient, gradient_alone)


def test_a_batch_that_says_nothing_is_worth_zero():
    scores, reference, labels = random_lists(13)
    silent = labels.replace(mask=np.zeros((Q, K), bool), in_batch=np.zeros((Q, K), bool))
    assert all(not list_weights(name, silent).any() for name in NAMES)
    weights = tuple((name, 1.0) for name in NAMES)
    (loss, _), gradient = _combined_step(weights)(scores, reference, silent, weight_totals(silent, NAMES))
    assert loss == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("name", NAMES)
def test_values_are_float32_whatever_the_scores(name):
    scores, reference, labels = random_lists(14)
    values, weights = LOSSES[name](jnp.asarray(scores, jnp.bfloat16), reference, labels)
    assert values.dtype == weights.dtype == jnp.float32


def test_missing_reference_and_wrong_shapes_are_named():
    scores, reference, labels = random_lists(15)
    with pytest.raises(ValueError, match="reference=None"):
        jax.eval_shape(lambda s: LOSSES["preference"](s, None, labels), scores)
    with pytest.raises(ValueError, match=r"scores: shape \(6, 1\) for labels of shape \(6, 7\)"):
        LOSSES["listwise"](scores[:, :1], None, labels)
    with pytest.raises(ValueError, match=r"reference: shape \(6, 1\)"):
        LOSSES["preference"](scores, reference[:, :1], labels)


def test_parse_losses():
    assert parse_losses("listwise=1, pointwise=0.5") == {"listwise": 1.0, "pointwise": 0.5}
    assert parse_losses(" info_nce ,pairwise = 2e-1,preference=0,") == {
        "info_nce": 1.0,
        "pairwise": 0.2,
        "preference": 0.0,
    }
    assert not needs_reference(parse_losses("listwise"))
    assert needs_reference(parse_losses("listwise, preference=0.1"))
    assert not needs_teacher(parse_losses("pointwise"))
    assert needs_teacher(parse_losses("listwise, margin_mse=0.1"))
    assert [name for name in LOSSES if learns_level({name: 1.0})] == ["pointwise"]
    assert learns_level(parse_losses("listwise, pointwise=0.1"))
    assert not learns_level(parse_losses("listwise, pointwise=0"))  # which is only reported


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listwize=1", "unknown loss 'listwize'; did you mean listwise?"),
        ("bce", "unknown loss 'bce'; choose from listwise, pairwise"),
        ("pairwise=1,pairwise=2", "pairwise is named twice"),
        ("pairwise=-1", "pairwise has the weight '-1'; give a finite number"),
        ("pairwise=nan", "pairwise has the weight 'nan'"),
        ("pairwise=inf", "pairwise has the weight 'inf'"),
        ("pairwise=", "pairwise has the weight ''"),
        ("pairwise=a lot", "pairwise has the weight 'a lot'"),
        ("pairwise=1=2", "pairwise has the weight '1=2'"),
        ("", "no loss has a weight above 0"),
        ("pairwise=0", "no loss has a weight above 0"),
    ],
)
def test_flawed_losses_are_named(text, message):
    with pytest.raises(ValueError, match=f"^ranking.losses='{text}': ") as caught:
        parse_losses(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "flaw", [{"top_grade": 0}, {"relevant_grade": -1}, {"beta": float("nan")}, {"soft_label": "qrels"}]
)
def test_flawed_options_are_named(flaw):
    with pytest.raises(ValueError, match=f"^{next(iter(flaw))}="):
        LossOptions(**flaw)
