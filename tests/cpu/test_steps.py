"""The jitted steps: what they never build, that they learn, and what they report."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import prorank_jax.steps
from prorank_jax.config import GrpoOptions, MeshOptions, OptimizerOptions
from prorank_jax.metrics_log import CompilationCounter
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.policy_gradient import sample_rollout
from prorank_jax.rewards import answer_reward
from prorank_jax.scoring import relevance_scores
from prorank_jax.sharding import make_mesh
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Batch
from tests.cpu.mesh_runs import graded_reward
from tests.cpu.tiny import ANSWERS, VOCABULARY, assert_moved_alike, random_batch, tiny_model

# No two of these share a factor above 2, so that the size of an array tells what it is made of.
B, G, L, T, V, D, F, C = 3, 5, 3, 53, 37, 2 * 7, 11, 2 * 13
KEY = jax.random.key(0)


def one_device():
    return make_mesh(MeshOptions(), jax.devices()[:1])


def distinct_model(remat: str = "none"):
    return tiny_model(remat=remat, vocab_size=V, dim=D, mlp_dim=F, head_dim=C, max_positions=128)


def distinct_batch() -> Batch:
    tokens = np.random.default_rng(0).integers(0, V, (B, T)).astype(np.int32)
    rows = np.arange(B, dtype=np.int32)
    return Batch(tokens, np.array([T, 20, 31], np.int32), rows % 2, rows)


def build(model, params, options: GrpoOptions, optimizer=None, reward=None, schedule=None, parts=1):
    """The jitted step and its first state, on one device."""
    mesh = one_device()
    optimizer = optimizer or optax.sgd(1.0)
    reward = reward or answer_reward(ANSWERS, 0.5, 1.0)
    schedule = schedule or optax.constant_schedule(1.0)
    step = make_grpo_step(model, optimizer, schedule, options, ANSWERS, reward, mesh, accumulation=parts)
    shardings = train_state_shardings(model, optimizer, mesh)
    # The step donates its state; the caller keeps its parameters.
    copied = jax.tree.map(jnp.array, params)
    return step, init_state(jax.device_put(copied, shardings.params), model, optimizer, shardings)


def equations(jaxpr: Jaxpr) -> Iterator:
    """Every equation of a program and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from equations(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from equations(inner)


def intermediate_shapes(function, *arguments) -> set[tuple[int, ...]]:
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return {v.aval.shape for e in equations(program) for v in e.outvars if hasattr(v.aval, "shape")}


def vocabulary_at_each_position(shapes) -> list[tuple[int, ...]]:
    return [shape for shape in shapes if math.prod(shape) % (T * V) == 0 and math.prod(shape)]


def prompt_for_each_completion(shapes) -> list[tuple[int, ...]]:
    """Features of prompt tokens once for every completion, as [B, G, T, …] or as [B·G, T + some, …]."""
    found = []
    for shape in shapes:
        features = any(math.prod(shape) % factor == 0 for factor in (7, 11, 13, V))
        multiplied = math.prod(shape) % (T * G) == 0 and features
        per_completion = shape[:1] == (B * G,) or shape[:2] == (B, G) or shape[1:3] == (B, G)
        stretched = per_completion and any(T <= size <= T + L for size in shape)
        if math.prod(shape) and (multiplied or stretched):
            found.append(shape)
    return found


def test_the_shape_checks_notice_what_they_look_for():
    model, params = distinct_model()
    batch = distinct_batch()

    def wasteful(params):
        repeated = jax.tree.map(lambda rows: jnp.repeat(rows, G, axis=0), batch)
        scores = relevance_scores(model, params, repeated, ANSWERS)
        return scores.sum(), jnp.ones((B, T, D)) @ params["embedding"].T, jnp.ones((B * G, T + 2, D)) * 2

    shapes = intermediate_shapes(wasteful, params)
    assert (B, T, V) in vocabulary_at_each_position(shapes)
    found = prompt_for_each_completion(shapes)
    assert (B * G, T, D) in found
    assert (B * G, T + 2, D) in found


@pytest.mark.parametrize(
    ("new_tokens", "updates", "kl", "remat"), [(2, 1, 0.0, "none"), (L, 1, 0.1, "full"), (2, 2, 0.1, "dots")]
)
def test_grpo_step_shares_the_prompt_and_keeps_the_vocabulary_small(new_tokens, updates, kl, remat):
    model, params = distinct_model(remat)
    options = GrpoOptions(
        group_size=G, max_new_tokens=new_tokens, updates_per_rollout=updates, kl_coefficient=kl
    )
    step, state = build(model, params, options)
    shapes = intermediate_shapes(step, state, params if kl else None, distinct_batch(), KEY)
    assert (B, T, D) in shapes  # the walk went into the layers
    assert any(math.prod(shape) == B * G * (new_tokens - 1) * V for shape in shapes)
    assert not vocabulary_at_each_position(shapes)
    assert not prompt_for_each_completion(shapes)


def test_score_never_projects_on_the_vocabulary_at_each_position_forward_or_backward():
    model, params = distinct_model()
    batch = distinct_batch()
    forward = intermediate_shapes(make_score_step(model, ANSWERS, one_device()), params, batch)
    backward = intermediate_shapes(
        jax.grad(lambda params: relevance_scores(model, params, batch, ANSWERS).sum()), params
    )
    for shapes in (forward, backward):
        assert (B, T, D) in shapes
        assert not vocabulary_at_each_position(shapes)
        assert not [shape for shape in shapes if V in shape and shape not in ((V, D), (V,))]


def layer_scans(step, *arguments) -> int:
    """Of two layers, or of the first, where the last one stands apart: they hand on nothing but `x`."""
    program = jax.make_jaxpr(step)(*arguments).jaxpr
    scans = [e.params for e in equations(program) if e.primitive.name == "scan"]
    return sum(scan["length"] in (1, 2) and scan["num_carry"] == 1 for scan in scans)


def test_without_kl_there_is_no_reference_and_one_pass_less():
    model, params = tiny_model()
    batch = random_batch()
    counts = {}
    for coefficient in (0.0, 0.1):
        step, state = build(model, params, GrpoOptions(group_size=3, kl_coefficient=coefficient))
        counts[coefficient] = layer_scans(step, state, params if coefficient else None, batch, KEY)
    assert counts[0.0] == 4  # prompt and completions, forward and backward
    assert counts[0.1] == counts[0.0] + 2  # the reference's prompt and completions, forward only


def test_parts_cost_one_forward_pass_more():
    model, params = tiny_model()
    step, state = build(model, params, GrpoOptions(group_size=3), parts=4)  # layers are 2, so not counted
    assert layer_scans(step, state, None, random_batch(), KEY) == 4 + 2


MARKS = (10, 11)


def readable_batch(width: int, seed: int) -> Batch:
    """The last token says which answer is right."""
    batch = random_batch(8, width, seed)
    tokens = np.array(batch.tokens)
    tokens[np.arange(8), batch.lengths - 1] = np.array(MARKS)[batch.labels]
    return batch.replace(tokens=tokens)


@pytest.mark.parametrize(("updates", "widths"), [(1, (6, 9)), (2, (6,))])
def test_reward_rises_on_a_task_that_can_be_learned(updates, widths):
    model, params = tiny_model(scale=1.0)
    options = GrpoOptions(group_size=16, entropy_coefficient=0.0, updates_per_rollout=updates)
    rates = OptimizerOptions(learning_rate=0.02, warmup_steps=3)
    schedule = make_schedule(rates, 60 * updates)
    step, state = build(model, params, options, make_optimizer(rates, 60 * updates), None, schedule)
    counter, compiled, rewards = CompilationCounter(), [], []
    for number in range(60):
        batch = readable_batch(widths[number % len(widths)], number)
        key, before = jax.random.fold_in(KEY, number), counter.count
        state, metrics, _ = step(state, None, batch, key)
        compiled.append(counter.count - before)
        rewards.append(float(metrics["reward"]))
        assert float(metrics["learning_rate"]) == pytest.approx(float(schedule(updates * number)))
    assert np.mean(rewards[:3]) < 0.4
    assert np.mean(rewards[-5:]) > 1.3  # of 1.5
    assert int(state.step) == 60
    assert step._cache_size() == len(widths)
    assert all(compiled[: len(widths)])  # each width, once
    assert not any(compiled[len(widths) :])


def test_another_reward_function_is_obeyed():
    model, params = tiny_model(scale=1.0)

    def loves_token_two(tokens, labels):
        del labels
        return (tokens[..., 0] == 2).astype(jnp.float32)

    options = GrpoOptions(group_size=16, max_new_tokens=1, entropy_coefficient=0.0)
    step, state = build(model, params, options, optax.adam(0.02), loves_token_two)
    for number in range(40):
        state, metrics, completions = step(state, None, random_batch(8, 6, number), KEY)
    assert float(metrics["reward"]) > 0.9
    assert completions.shape == (8, 16, 1)
    assert np.mean(np.asarray(completions) == 2) == pytest.approx(float(metrics["reward"]))


def test_tied_groups_change_nothing_and_metrics_have_the_names_that_runs_log():
    model, params = tiny_model()

    def indifferent(tokens, labels):
        del labels
        return jnp.full(tokens.shape[:2], 0.7)

    options = GrpoOptions(group_size=4, entropy_coefficient=0.0)
    step, state = build(model, params, options, reward=indifferent, schedule=optax.constant_schedule(0.25))
    state, metrics, _ = step(state, None, random_batch(), KEY)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    expected = {"tied_groups": 1, "grad_norm": 0, "kl": 0, "clip_fraction": 0, "learning_rate": 0.25}
    expected["reward"] = np.float32(0.7)
    assert {"format_rate", "accuracy", "entropy", *expected} <= set(metrics)
    assert all(value.shape == () for value in metrics.values())
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected)
    assert 0 < float(metrics["entropy"]) <= np.log(VOCABULARY)


def sum_of_digits(tokens, labels):
    return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)


def test_several_updates_begin_with_the_single_one_and_their_metrics_are_means():
    """An optimizer that rests after its first update shows the first of two updates alone."""
    model, params = tiny_model()
    first_only = optax.sgd(lambda count: jnp.where(count == 0, 1.0, 0.0))
    once, state = build(model, params, GrpoOptions(group_size=4), first_only, sum_of_digits)
    state, first, tokens = once(state, None, random_batch(), KEY)
    single = jax.device_get(state.params)
    _, second, _ = once(state, None, random_batch(), KEY)
    options = GrpoOptions(group_size=4, updates_per_rollout=2)
    twice, state = build(model, params, options, first_only, sum_of_digits)
    several, metrics, same_tokens = twice(state, None, random_batch(), KEY)
    np.testing.assert_array_equal(tokens, same_tokens)
    assert_moved_alike(params, several.params, single)
    # Of the first token, so that it does not depend on what is sampled.
    before, after = float(first["entropy"]), float(second["entropy"])
    assert abs(after - before) > 0.1 * before
    assert float(metrics["entropy"]) == pytest.approx((before + after) / 2, rel=1e-4)
    assert 0 < float(metrics["clip_fraction"]) <= 0.5  # of the second: ratios are to the policy that sampled


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        (4, GrpoOptions(group_size=3, max_new_tokens=3, updates_per_rollout=2, kl_coefficient=0.1)),
        (2, GrpoOptions(group_size=4, max_new_tokens=1, advantage="mean_std", mask_tied_groups=False)),
    ],
)
def test_parts_of_a_batch_give_what_the_batch_gives(parts, options, monkeypatch):
    def sample(*arguments):
        """A single update's ratios are 1, whatever sampling noted."""
        rollout = sample_rollout(*arguments)
        noted = 1.0 if options.updates_per_rollout == 1 else 0.0
        return rollout.replace(log_probs=rollout.log_probs - noted)

    monkeypatch.setattr(prorank_jax.steps, "sample_rollout", sample)
    model, params = tiny_model()
    reference = jax.tree.map(lambda leaf: leaf * 1.1, params) if options.kl_coefficient else None
    batch = random_batch(8)
    outcomes = []
    for count in (1, parts):
        step, state = build(model, params, options, optax.sgd(0.1), graded_reward, parts=count)
        outcomes.append(step(state, reference, batch, KEY))
    (whole, expected, completions), (state, metrics, same_completions) = outcomes
    np.testing.assert_array_equal(same_completions, completions)
    assert 0 < float(expected["tied_groups"]) < 1
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert_moved_alike(params, state.params, whole.params)


def test_a_reference_is_left_as_it_was():
    model, params = tiny_model()
    step, state = build(model, params, GrpoOptions(group_size=4, kl_coefficient=0.5), reward=sum_of_digits)
    reference = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, state.params))
    state, first, _ = step(state, reference, random_batch(), KEY)
    state, second, _ = step(state, reference, random_batch(), KEY)
    assert float(first["kl"]) == pytest.approx(0, abs=1e-6)
    assert float(second["kl"]) > 1e-4
    jax.tree.map(np.testing.assert_array_equal, reference, params)
