"""The shared-prefix passes against a reference that lays every completion out as its own sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.cpu.tiny import ANSWERS, VOCABULARY, random_batch, tiny_model

from prorank_jax.config import GrpoOptions
from prorank_jax.grpo import group_advantages, policy_loss
from prorank_jax.models.attention import prompt_layout
from prorank_jax.rewards import answer_reward
from prorank_jax.rollouts import (
    choose_greedily,
    close_completions,
    completion_mask,
    end_some_after_answer,
    log_probs_of,
    replay_logits,
    sample_completions,
)
from prorank_jax.types import Batch, Rollout


def plain_logits(model, params, batch: Batch, tokens: jax.Array) -> jax.Array:
    """[B, G, L, V] logits from full sequences, one at a time, nothing padded and nothing shared."""
    table = params["embedding"]
    rows = []
    for row, completions in enumerate(np.asarray(tokens)):
        prompt = np.asarray(batch.tokens[row][: batch.lengths[row]])
        group = []
        for completion in completions:
            sequence = jnp.asarray(np.concatenate([prompt, completion]))[None]
            length = sequence.shape[1]
            hidden, _ = model.apply({"params": params}, sequence, prompt_layout(jnp.array([length]), length))
            every = hidden[0] @ table.T
            group.append(every[len(prompt) - 1 : length - 1])
        rows.append(jnp.stack(group))
    return jnp.stack(rows)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("group", "new_tokens"), [(1, 1), (3, 1), (4, 2), (2, 3), (3, 5)])
def test_replay_equals_full_sequences(family, group, new_tokens):
    model, params = tiny_model(family)
    batch = random_batch(3, 8)
    tokens = jax.random.randint(jax.random.key(5), (3, group, new_tokens), 0, VOCABULARY)
    logits = replay_logits(model, params, batch, tokens)
    plain = plain_logits(model, params, batch, tokens)
    np.testing.assert_allclose(
        np.broadcast_to(logits.first[:, None], plain[:, :, 0].shape), plain[:, :, 0], atol=1e-4
    )
    np.testing.assert_allclose(logits.later, plain[:, :, 1:], atol=1e-4)


@pytest.mark.parametrize(("group", "new_tokens"), [(2, 1), (5, 2), (3, 3), (4, 6)])
def test_logits_of_sampling_are_those_of_replay(group, new_tokens):
    model, params = tiny_model()
    batch = random_batch()
    sample = jax.jit(
        lambda p: sample_completions(
            model, p, batch, jax.random.key(3), group=group, new_tokens=new_tokens, temperature=0.7
        )
    )
    tokens, logits = sample(params)
    replayed = replay_logits(model, params, batch, tokens, 0.7)
    assert tokens.shape == (4, group, new_tokens)
    np.testing.assert_allclose(logits.first, replayed.first, atol=1e-4)
    np.testing.assert_allclose(logits.later, replayed.later, atol=1e-4)


@pytest.mark.parametrize("new_tokens", [1, 2, 5])
def test_greedy_decoding_takes_the_likeliest_token_of_the_full_sequence(new_tokens):
    model, params = tiny_model()
    batch = random_batch()
    tokens, _ = sample_completions(
        model, params, batch, jax.random.key(0), group=1, new_tokens=new_tokens, choose=choose_greedily
    )
    np.testing.assert_array_equal(plain_logits(model, params, batch, tokens).argmax(-1), tokens)


def _plain_loss(params, model, batch, rollout: Rollout, options: GrpoOptions) -> jax.Array:
    """Textbook form: [B, G, L, V] log-probabilities, every token written out."""
    logits = plain_logits(model, params, batch, rollout.tokens) / options.temperature
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, rollout.tokens[..., None], axis=-1)[..., 0]
    ratio = jnp.exp(chosen - rollout.log_probs)
    advantage = rollout.advantages[..., None]
    clipped = jnp.clip(ratio, 1 - options.clip_low, 1 + options.clip_high)
    objective = jnp.minimum(ratio * advantage, clipped * advantage)
    weight = rollout.mask * jnp.where(rollout.tied, 0.0, 1.0)[:, None, None]
    loss = -(objective * weight).sum() / jnp.maximum(weight.sum(), 1)
    pair = jax.nn.softmax(logits[:, 0, 0, jnp.array([ANSWERS.zero, ANSWERS.one])])
    return loss + options.entropy_coefficient * (pair * jnp.log(pair)).sum(-1).mean()


@pytest.mark.parametrize(("group", "new_tokens"), [(2, 1), (6, 2), (3, 4)])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_fused_loss_and_gradients_equal_the_plain_reference(group, new_tokens, remat):
    model, params = tiny_model(remat=remat)
    batch = random_batch(4, 9, seed=2)
    options = GrpoOptions(group_size=group, max_new_tokens=new_tokens, entropy_coefficient=0.05)
    reward = answer_reward(ANSWERS, 0.5, 1.0)

    def fused(params):
        tokens, logits = sample_completions(
            model, params, batch, jax.random.key(11), group=group, new_tokens=new_tokens
        )
        tokens = close_completions(tokens, ANSWERS.end)
        rewards = reward(tokens, batch.labels)
        rewards = rewards + 0.1 * (
            tokens.sum(-1) % 3
        )  # an untrained model earns nothing: no signal to compare
        advantages, tied = group_advantages(rewards, "mean")
        mask = completion_mask(tokens, ANSWERS.end)
        rollout = Rollout(tokens, mask, log_probs_of(logits, tokens), rewards, advantages, tied)
        rollout = jax.lax.stop_gradient(rollout)
        return policy_loss(logits, rollout, ANSWERS, options, None)[0], rollout

    (loss, rollout), gradients = jax.jit(jax.value_and_grad(fused, has_aux=True))(params)
    assert bool((~rollout.tied).any())
    plain, plain_gradients = jax.value_and_grad(_plain_loss)(params, model, batch, rollout, options)
    np.testing.assert_allclose(loss, plain, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain_gradients), strict=True):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale + 1e-7)


def test_mask_ends_with_the_first_end_token():
    tokens = jnp.array([[[3, 7, 7], [3, 4, 5], [7, 3, 7]]])
    np.testing.assert_array_equal(completion_mask(tokens, 7), [[[1, 1, 0], [1, 1, 1], [1, 0, 0]]])
    np.testing.assert_array_equal(close_completions(tokens, 7), [[[3, 7, 7], [3, 4, 5], [7, 7, 7]]])


def test_forced_ends_touch_only_the_first_members_that_answered():
    tokens, previous = jnp.array([[1, 1, 1]]), jnp.array([[3, 2, 5]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 0), [[1, 1, 1]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 2), [[7, 1, 1]])
    np.testing.assert_array_equal(end_some_after_answer(tokens, previous, ANSWERS, 3), [[7, 1, 7]])
