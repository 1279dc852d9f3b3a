"""A first step of stage 1 done plainly, to compare with what the timed step says of its own completions.

Every completion is a row of its own behind its own copy of the prompt, one group at a time. Of the project
only the model's layers are used: the reward is the peers', and loss, gradient and update are written out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from answer_reward import answer_reward

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.transformer import Transformer
from prorank_jax.types import Params

Settings = dict[str, Any]


class PlainStep(NamedTuple):
    """What a step should say: mean reward, loss, and the gradients before they are clipped."""

    reward: float
    loss: float
    gradients: Params


class Rows(NamedTuple):
    """A group's completions behind their prompt.

    Attributes:
        tokens: [G, T + L] int32, prompt and completion, padded on the right.
        start: int32 scalar, the tokens of the prompt.
        said: [G, L] float32, 1 for each token up to and including the first end.
    """

    tokens: np.ndarray
    start: np.ndarray
    said: np.ndarray


def plain_step(
    model: Transformer, params: Params, batch: dict[str, Any], completions: np.ndarray, settings: Settings
) -> PlainStep:
    """The step in which these completions [B, G, L] were sampled, from the parameters that sampled them.

    The policy is still the old one and the reference: ratios are 1, and the KL term is 0 and flat.

    Args:
        batch: of work.json: `prompts` and `labels`.
    """
    groups = [
        rows_of(prompt, group, settings) for prompt, group in zip(batch["prompts"], completions, strict=True)
    ]
    rewards = np.array(
        [
            [answer_reward(said_of(completion, settings), label, settings) for completion in group.tolist()]
            for group, label in zip(completions, batch["labels"], strict=True)
        ]
    )
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)).astype(np.float32)
    tokens = sum(float(rows.said.sum()) for rows in groups)

    def loss_of(params: Params, rows: Rows, advantages: jax.Array) -> jax.Array:
        log_probs = _log_probs(model, params, rows, settings)
        ratio = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
        return -(ratio * advantages[:, None] * rows.said).sum() / tokens

    of_group = jax.jit(jax.value_and_grad(loss_of))
    add = jax.jit(lambda one, other: jax.tree.map(jnp.add, one, other), donate_argnums=0)
    loss, gradients = of_group(params, groups[0], advantages[0])
    for rows, own in zip(groups[1:], advantages[1:], strict=True):
        loss, gradients = add((loss, gradients), of_group(params, rows, own))
    return PlainStep(float(rewards.mean()), float(loss), gradients)


def plain_log_probs(
    model: Transformer, params: Params, prompt: list[int], group: np.ndarray, settings: Settings
) -> list[float]:
    """The log-probability of each token of a prompt's completions [G, L], 0 behind an end."""
    rows = rows_of(prompt, group, settings)
    found = jax.jit(lambda params, rows: _log_probs(model, params, rows, settings))(params, rows)
    return np.ravel(np.asarray(found) * rows.said).tolist()


def first_update(params: Params, gradients: Params, settings: Settings) -> Params:
    """The parameters after AdamW's first update, whose moments are the clipped gradient and its square."""
    share = _clipped_share(norm_of(gradients), settings)
    rate, eps = settings["learning_rate"], settings["eps"]

    def move(weight: jax.Array, gradient: jax.Array) -> jax.Array:
        return weight - rate * gradient * share / (jnp.abs(gradient * share) + eps)

    return jax.jit(lambda params, gradients: jax.tree.map(move, params, gradients))(params, gradients)


def share_in_moment(gradients: Params, moment: Params, settings: Settings) -> float:
    """How much of the clipped gradient is in what AdamW's first update made of its first moment: 1 for all.

    It is 1 too where there is no gradient, as where every group's rewards are equal.
    """
    norm = norm_of(gradients)
    whole = (1 - settings["b1"]) * _clipped_share(norm, settings) * norm**2
    return inner(moment, gradients) / whole if whole else 1.0


def _clipped_share(norm: float, settings: Settings) -> float:
    """What clipping leaves of a gradient of this norm."""
    return settings["max_grad_norm"] / max(norm, settings["max_grad_norm"])


def norm_of(tree: Params) -> float:
    """The norm of all numbers together."""
    return inner(tree, tree) ** 0.5


def inner(one: Params, other: Params) -> float:
    """The sum over all numbers of two trees, multiplied."""
    return float(sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), one, other))))


def said_of(completion: list[int], settings: Settings) -> list[int]:
    """A completion up to and including its first end, if it has one."""
    end = settings["answers"]["end"]
    return completion[: completion.index(end) + 1] if end in completion else completion


def rows_of(prompt: list[int], group: np.ndarray, settings: Settings) -> Rows:
    """The rows of one prompt and its completions [G, L]."""
    count, length = group.shape
    tokens = np.zeros((count, settings["width"] + length), np.int32)
    tokens[:, : len(prompt)] = prompt
    tokens[:, len(prompt) : len(prompt) + length] = group
    spoken = [len(said_of(completion, settings)) for completion in group.tolist()]
    said = (np.arange(length) < np.array(spoken)[:, None]).astype(np.float32)
    return Rows(tokens, np.int32(len(prompt)), said)


def _log_probs(model: Transformer, params: Params, rows: Rows, settings: Settings) -> jax.Array:
    """Of each completion token, under the tempered policy: [G, L] float32."""
    count, length = rows.said.shape
    layout = prompt_layout(jnp.full(count, rows.start + length), rows.tokens.shape[1])
    hidden, _ = model.apply({"params": params}, rows.tokens, layout)
    before = jax.lax.dynamic_slice_in_dim(hidden, rows.start - 1, length, axis=1)
    logits = model.apply({"params": params}, before, method="answer_logits") / settings["temperature"]
    chosen = jax.lax.dynamic_slice_in_dim(rows.tokens, rows.start, length, axis=1)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[..., None], axis=-1)[..., 0]
