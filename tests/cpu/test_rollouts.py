"""The shared-prefix passes against a reference that lays every completion out as its own sequence."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.completions import close_completions, completion_mask
from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import group_advantages
from prorank_jax.models.attention import prompt_layout
from prorank_jax.policy_gradient import on_policy_gradients, replayed_gradients, sample_rollout
from prorank_jax.rewards import answer_reward
from prorank_jax.rollouts import choose_greedily, replay_logits, sample_completions, uniform_draws
from prorank_jax.sampling import sample_categorical
from prorank_jax.stage_options import ADVANTAGES
from prorank_jax.train_state import Policy
from prorank_jax.types import Batch, PromptRows, Rollout
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_model

LENGTHS = (3, 8, 3)  # rows 0 and 2 run together in the reference; row 1 has no padding
SHARED = 2  # tokens that all begin with where they stand in a row


def uneven_batch(seed: int = 0, *, in_rows: bool = False) -> Batch:
    prompts, width = len(LENGTHS), max(LENGTHS)
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (prompts, width)).astype(np.int32)
    labels = (np.arange(prompts) % 2).astype(np.int32)
    rows = None
    if in_rows:
        tokens[:, :SHARED] = tokens[0, :SHARED]
        rows = PromptRows(prompts, SHARED, SHARED + sum(LENGTHS) - prompts * SHARED + 1)
    return Batch(tokens, np.array(LENGTHS, np.int32), labels, np.arange(prompts, dtype=np.int32), rows)


@partial(jax.jit, static_argnums=0)
def plain_logits(model, params, prompts: jax.Array, completions: jax.Array) -> jax.Array:
    """[B, G, L, V] logits of full sequences, nothing shared; padding is never computed on."""
    group, new_tokens = completions.shape[1:]
    rows = [None] * len(LENGTHS)
    for length in set(LENGTHS):
        here = [row for row, of_row in enumerate(LENGTHS) if of_row == length]
        repeated = jnp.repeat(prompts[np.array(here), :length], group, axis=0)
        sequences = jnp.concatenate([repeated, completions[np.array(here)].reshape(-1, new_tokens)], axis=1)
        full = jnp.full(len(sequences), sequences.shape[1])
        hidden, _ = model.apply({"params": params}, sequences, prompt_layout(full, sequences.shape[1]))
        predicting = hidden[:, length - 1 : -1] @ params["embedding"].T
        for row, logits in zip(here, predicting.reshape(len(here), group, new_tokens, -1), strict=True):
            rows[row] = logits
    return jnp.stack(rows)


@pytest.mark.parametrize(
    ("family", "group", "new_tokens"),
    [("qwen2", 1, 1), ("qwen2", 4, 2), ("qwen3", 2, 3), ("llama", 3, 5)],
)
def test_replay_equals_full_sequences(family, group, new_tokens):
    model, params = tiny_model(family)
    batch = uneven_batch()
    tokens = jax.random.randint(jax.random.key(5), (len(LENGTHS), group, new_tokens), 0, VOCABULARY)
    logits = jax.jit(partial(replay_logits, model))(params, batch, tokens)
    plain = plain_logits(model, params, batch.tokens, tokens)
    assert logits.later.shape == (len(LENGTHS), group, new_tokens - 1, VOCABULARY)
    np.testing.assert_allclose(
        np.broadcast_to(logits.first[:, None], plain[:, :, 0].shape), plain[:, :, 0], atol=1e-4
    )
    np.testing.assert_allclose(logits.later, plain[:, :, 1:], atol=1e-4)


@pytest.mark.parametrize(("group", "new_tokens"), [(5, 2), (4, 5)])
def test_logits_and_tokens_of_sampling_are_those_of_full_sequences(group, new_tokens):
    model, params = tiny_model()
    batch = uneven_batch()
    sample = partial(sample_completions, model, temperature=0.7)
    uniform = uniform_draws(jax.random.key(3), len(LENGTHS), group, new_tokens)
    tokens, logits = jax.jit(sample)(params, batch, uniform)
    assert tokens.shape == (len(LENGTHS), group, new_tokens)
    plain = plain_logits(model, params, batch.tokens, tokens) / 0.7
    np.testing.assert_allclose(logits.first, plain[:, 0, 0], atol=1e-4)
    np.testing.assert_allclose(logits.later, plain[:, :, 1:], atol=1e-4)
    drawn = jax.jit(sample_categorical)(uniform[..., None], plain)  # each token by its own random number
    np.testing.assert_array_equal(tokens, drawn[..., 0])


@pytest.mark.parametrize(("family", "new_tokens"), [("llama", 2), ("qwen3", 5)])
def test_greedy_decoding_takes_the_likeliest_token_of_the_full_sequence(family, new_tokens):
    model, params = tiny_model(family)
    batch = uneven_batch()
    decode = partial(sample_completions, model, choose=choose_greedily)
    tokens, _ = jax.jit(decode)(params, batch, jnp.zeros((len(LENGTHS), 1, new_tokens)))
    np.testing.assert_array_equal(plain_logits(model, params, batch.tokens, tokens).argmax(-1), tokens)


def test_the_random_numbers_of_a_batch_come_from_one_key_for_each_token():
    """Completions of a run do not change with the code that draws them."""
    uniform = uniform_draws(jax.random.key(4), 3, 5, 2)
    first, second = jax.random.split(jax.random.key(4), 2)
    np.testing.assert_array_equal(uniform[..., 0], jax.random.uniform(first, (3, 5)))
    np.testing.assert_array_equal(uniform[..., 1], jax.random.uniform(second, (3, 5, 1))[..., 0])


def _plain_kl(log_p, log_q, tokens, estimator: str) -> jax.Array:
    if estimator == "exact":
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    difference = jnp.take_along_axis(log_q - log_p, tokens[..., None], axis=-1)[..., 0]
    return jnp.exp(difference) - difference - 1


def _plain_loss(params, model, reference, batch: Batch, rollout: Rollout, options: GrpoOptions) -> jax.Array:
    """Textbook form: [B, G, L, V] log-probabilities, every token written out."""
    logits = plain_logits(model, params, batch.tokens, rollout.tokens) / options.temperature
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, rollout.tokens[..., None], axis=-1)[..., 0]
    before, after = (
        rollout.tokens[:, : options.forced_ends, :-1],
        rollout.tokens[:, : options.forced_ends, 1:],
    )
    forced = ((before == ANSWERS.zero) | (before == ANSWERS.one)) & (after == ANSWERS.end)
    old = rollout.log_probs.at[:, : options.forced_ends, 1:].set(
        jnp.where(
            forced, chosen[:, : options.forced_ends, 1:], rollout.log_probs[:, : options.forced_ends, 1:]
        )
    )
    ratio = jnp.exp(chosen - jax.lax.stop_gradient(old))
    advantage = rollout.advantages[..., None]
    clipped = jnp.clip(ratio, 1 - options.clip_low, 1 + options.clip_high)
    objective = jnp.minimum(ratio * advantage, clipped * advantage)
    weight = rollout.mask * jnp.where(rollout.tied, 0.0, 1.0)[:, None, None]
    loss = -(objective * weight).sum() / jnp.maximum(weight.sum(), 1)
    pair = jax.nn.softmax(logits[:, 0, 0, jnp.array([ANSWERS.zero, ANSWERS.one])])
    loss = loss + options.entropy_coefficient * -(jnp.log(2) + jnp.log(pair).mean(-1)).mean()
    if reference is None:
        return loss
    log_q = plain_logits(model, reference, batch.tokens, rollout.tokens) / options.temperature
    kl = _plain_kl(log_p, jax.nn.log_softmax(log_q), rollout.tokens, options.kl_estimator)
    compared = rollout.mask
    if options.kl_estimator == "k3":  # of tokens that were sampled
        compared = compared.at[:, : options.forced_ends, 1:].multiply(~forced)
    return loss + options.kl_coefficient * (kl * compared).sum() / compared.sum()


def _assert_same_loss_and_gradients(ours, plain) -> None:
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-4, atol=1e-6)
    for fused, textbook in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(plain[1]), strict=True):
        assert float(jnp.linalg.norm(textbook)) > 1e-5
        np.testing.assert_allclose(fused, textbook, rtol=1e-4, atol=1e-4 * float(jnp.abs(textbook).max()))


def _reward_that_differs(tokens, labels):
    """An untrained model earns nothing, and tied groups have no gradient to compare."""
    return answer_reward(ANSWERS, 0.5, 1.0)(tokens, labels) + 0.1 * (tokens.sum(-1) % 3)


def _moved(params, seed: int):
    """Other parameters nearby: a policy that has been updated, or the one it started from."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize(
    ("family", "group", "new_tokens", "remat", "estimator", "in_rows"),
    [
        ("qwen2", 6, 2, "none", "", True),
        ("qwen2", 2, 1, "dots", "exact", False),
        ("qwen3", 5, 2, "full", "k3", False),
        ("llama", 3, 4, "dots_no_batch", "exact", True),
    ],
)
def test_fused_loss_and_gradients_equal_the_plain_reference(
    family, group, new_tokens, remat, estimator, in_rows
):
    model, params = tiny_model(family, remat=remat)
    batch = uneven_batch(2, in_rows=in_rows)
    reference = _moved(params, 1) if estimator else None
    policy = Policy(model, reference) if estimator else None
    options = GrpoOptions(
        group_size=group,
        max_new_tokens=new_tokens,
        temperature=0.8,
        entropy_coefficient=0.05,
        kl_coefficient=0.3 if estimator else 0.0,
        kl_estimator=estimator or "exact",
    )
    plain = jax.jit(
        lambda params, rollout: jax.value_and_grad(_plain_loss)(
            params, model, reference, batch, rollout, options
        )
    )

    @jax.jit
    def on_policy(params):
        uniform = uniform_draws(jax.random.key(11), len(LENGTHS), group, new_tokens)
        return on_policy_gradients(
            params, {}, model, policy, batch, uniform, _reward_that_differs, ANSWERS, options
        )

    (loss, (_, rollout)), gradients = on_policy(params)
    assert bool((~rollout.tied).any())
    _assert_same_loss_and_gradients((loss, gradients), plain(params, rollout))

    @jax.jit
    def on_stored_samples(params):
        return replayed_gradients(params, {}, model, policy, batch, rollout, ANSWERS, options)

    updated = _moved(params, 2)
    (loss, metrics), gradients = on_stored_samples(updated)
    _assert_same_loss_and_gradients((loss, gradients), plain(updated, rollout))
    assert 0 <= metrics["clip_fraction"] < 1


def test_a_rollout_has_the_advantages_that_the_options_name():
    model, params = tiny_model()

    batch = uneven_batch(2)
    uniform = uniform_draws(jax.random.key(11), len(LENGTHS), 6, 2)

    @jax.jit
    def sample(params):
        options = [GrpoOptions(group_size=6, advantage=kind) for kind in ADVANTAGES]
        return [
            sample_rollout(params, model, batch, uniform, _reward_that_differs, ANSWERS, each)
            for each in options
        ]

    for kind, rollout in zip(ADVANTAGES, sample(params), strict=True):
        expected, tied = group_advantages(rollout.rewards, kind)
        assert not tied.all()
        np.testing.assert_allclose(rollout.advantages, expected, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_mask_ends_with_the_first_end_token():
    tokens = jnp.array([[[3, 7, 7], [3, 4, 5], [7, 3, 7]]])
    np.testing.assert_array_equal(completion_mask(tokens, 7), [[[1, 1, 0], [1, 1, 1], [1, 0, 0]]])
    np.testing.assert_array_equal(close_completions(tokens, 7), [[[3, 7, 7], [3, 4, 5], [7, 7, 7]]])
