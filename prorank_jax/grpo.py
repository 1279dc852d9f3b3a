"""GRPO for answers of a token or two, with one copy of the prompt for all completions of a group.

Deviations from textbook GRPO (arXiv 2402.03300):

1. One prompt, one forward pass. The G completions attend to a single set of prompt keys and values;
   a gradient flows back through them once. Textbook code lays out G full sequences. Completions of a
   group that are alike but for their last token run once (`continuations`).
2. With one update per rollout, sampling and gradient share that pass: the logits a token was drawn
   from are those its gradient goes through. The ratio is then exactly 1 and clipping idle.
3. The advantage is reward minus the group's mean, without division by the standard deviation unless
   asked for (Dr. GRPO, arXiv 2503.20783): dividing blows up groups that differ by chance.
4. The loss averages over all completion tokens of a batch (DAPO, arXiv 2503.14476), not per sequence first.
5. The upper clip is wider than the lower one (also DAPO).
6. Groups in which every reward is equal carry no signal; they leave the average and are counted.
7. The KL term is off by default and, where on, exact over the vocabulary instead of a one-sample estimate.
8. The entropy bonus is on the answer alone: −KL(uniform ‖ policy) over {`0`, `1`}, given that one of them
   is said. Entropy over the whole vocabulary would undo the format; the entropy of the pair has a gradient
   that vanishes just where it is needed, at a constant answer. This one pulls a score s back with
   β·(sigmoid(s) − ½), at most β/2, so that a policy which gives every prompt one answer recovers.
9. Of each group, `forced_ends` completions end their turn right after an answer, whatever was sampled.
   SmolLM2 does so by itself once in 1,000 to 150,000 tries, too rarely for any reward to reinforce. They
   count as if sampled (ratio 1 in every update, no importance weight), and change nothing once the policy
   ends its turns. The k3 estimate, which holds for tokens that were sampled, leaves them out; the exact KL
   is the same whichever token came.
10. Log-probabilities are those of the tempered distribution that was sampled from.
11. The format reward comes in halves (`rewards.answer_reward`): one for an answer that starts with `0` or
   `1`, the other where it also ends there, so that a policy learns the digit before it ends its turns.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from prorank_jax.answer_logits import AnswerLogits, log_probs_of
from prorank_jax.completions import was_made_to_end
from prorank_jax.config import GrpoOptions
from prorank_jax.continuations import of_members
from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Rollout

ADVANTAGE_EPS = 1e-4  # TRL adds the same to the standard deviation
LARGEST_LOG_RATIO = 20.0


def group_advantages(rewards: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Reward relative to the group: [B, G] → advantages [B, G] and tied [B] bool.

    `mean`: r − mean(r). `mean_std`: (r − mean(r)) / (std(r) + 1e-4), with the sample standard
    deviation, as in section 4.1.2 of arXiv 2402.03300 and in TRL.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    tied = rewards.max(axis=1) == rewards.min(axis=1)
    if kind == "mean_std":
        centred = centred / (rewards.std(axis=1, keepdims=True, ddof=1) + ADVANTAGE_EPS)
    return jnp.where(tied[:, None], 0.0, centred), tied


def clipped_objective(
    log_ratio: jax.Array, advantages: jax.Array, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
    """The surrogate to maximise, per token, and which tokens the clip holds back.

    min(ρA, clip(ρ, 1 − low, 1 + high)A) with ρ = exp(log_ratio) (arXiv 1707.06347, eq. 7). From e²⁰ on ρ
    grows no more: an infinite one would be no number where A is 0.
    """
    ratio = jnp.exp(jnp.minimum(log_ratio, LARGEST_LOG_RATIO))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    held = ((ratio < 1 - clip_low) & (advantages < 0)) | ((ratio > 1 + clip_high) & (advantages > 0))
    return jnp.minimum(ratio * advantages, clipped * advantages), held.astype(jnp.float32)


def k3_estimate(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """The k3 estimate of KL(policy ‖ reference) from sampled tokens: e^d − d − 1, d = log ref − log p."""
    difference = reference_log_probs - log_probs
    return jnp.exp(difference) - difference - 1


def exact_kl(logits: jax.Array, reference: jax.Array) -> jax.Array:
    """KL(policy ‖ reference) over the vocabulary: two [..., V] → [...]."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def kl_per_token(
    logits: AnswerLogits, reference: AnswerLogits, tokens: jax.Array, log_probs: jax.Array, estimator: str
) -> jax.Array:
    """KL of the policy to the reference at each completion token: [B, G, L]."""
    if estimator == "k3":
        return k3_estimate(log_probs, log_probs_of(reference, tokens))
    first = jnp.broadcast_to(exact_kl(logits.first, reference.first)[:, None], tokens.shape[:2])
    later = of_members(exact_kl(logits.later, reference.later), logits.members)
    return jnp.concatenate([first[..., None], later], axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of the softmax over the last axis, in nats: [..., V] → [...]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def answer_log_probs(first_logits: jax.Array, answers: AnswerTokens) -> jax.Array:
    """Log-probabilities of `0` and `1` given that one of them is said: [B, V] → [B, 2]."""
    pair = jnp.stack([first_logits[:, answers.zero], first_logits[:, answers.one]], axis=-1)
    return jax.nn.log_softmax(pair)


def divergence_from_uniform(log_probs: jax.Array) -> jax.Array:
    """KL(uniform ‖ p) over the last axis, in nats: [..., n] → [...]; unbounded as p turns one-sided."""
    return -jnp.log(log_probs.shape[-1]) - log_probs.mean(axis=-1)


class LossTotals(NamedTuple):
    """What the averages of the loss divide by: sums over a whole batch, which its parts then add up to.

    Attributes:
        counted: completion tokens in groups that count in the policy loss, at least 1; float32 scalar.
        compared: completion tokens of the KL term; float32 scalar.
        prompts: B.
    """

    counted: jax.Array
    compared: jax.Array
    prompts: int


def _counted(rollout: Rollout, options: GrpoOptions) -> jax.Array:
    """1 for each completion token of the policy loss's average: [B, G, L]."""
    return rollout.mask * (~rollout.tied)[:, None, None] if options.mask_tied_groups else rollout.mask


def _compared(rollout: Rollout, answers: AnswerTokens, options: GrpoOptions) -> jax.Array:
    """1 for each completion token of the KL term's average: [B, G, L]."""
    if options.kl_estimator != "k3":
        return rollout.mask
    return rollout.mask * ~was_made_to_end(rollout.tokens, answers, options.forced_ends)


def loss_totals(rollout: Rollout, answers: AnswerTokens, options: GrpoOptions) -> LossTotals:
    """The totals of a whole batch; known only once it is sampled and rewarded."""
    counted = jnp.maximum(_counted(rollout, options).sum(), 1.0)
    return LossTotals(counted, _compared(rollout, answers, options).sum(), rollout.tokens.shape[0])


@jax.named_scope("loss")
def policy_loss(
    logits: AnswerLogits,
    rollout: Rollout,
    answers: AnswerTokens,
    options: GrpoOptions,
    reference: AnswerLogits | None,
    totals: LossTotals | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one update and its metrics, each a float32 scalar.

    Token averages divide by the number of tokens in groups that are not tied (deviations 4 and 6); the
    KL term averages over all tokens (k3 over those that were sampled), the entropy bonus over prompts.

    Args:
        totals: of the whole batch where this is a part of it; None: of `rollout`.
    """
    totals = loss_totals(rollout, answers, options) if totals is None else totals
    # Behind its end a completion was sampled after other tokens than are replayed here: such probabilities
    # can be far enough apart for an infinite ratio, and no mask makes 0 of that.
    is_said = rollout.mask > 0
    log_probs = jnp.where(is_said, log_probs_of(logits, rollout.tokens), 0.0)
    # An end that was forced on the policy was next to impossible: its ratio would grow without bound.
    is_forced = was_made_to_end(rollout.tokens, answers, options.forced_ends)
    old = jnp.where(is_forced, jax.lax.stop_gradient(log_probs), rollout.log_probs)
    log_ratio = log_probs - jnp.where(is_said, old, 0.0)
    objective, held = clipped_objective(
        log_ratio, rollout.advantages[..., None], options.clip_low, options.clip_high
    )
    counted = _counted(rollout, options)
    loss = -(objective * counted).sum() / totals.counted
    said = answer_log_probs(logits.first, answers)
    bonus = divergence_from_uniform(said).sum() / totals.prompts
    loss = loss + options.entropy_coefficient * bonus
    kl = jnp.zeros(())
    if reference is not None:
        compared = _compared(rollout, answers, options)
        sampled = jnp.where(compared > 0, log_probs, 0.0)  # as above: no mask makes 0 of an infinite ratio
        per_token = kl_per_token(logits, reference, rollout.tokens, sampled, options.kl_estimator)
        kl = (per_token * compared).sum() / totals.compared
        loss = loss + options.kl_coefficient * kl
    metrics = {
        "loss": loss,
        "kl": kl,
        "answer_entropy": entropy(said).sum() / totals.prompts,
        "entropy": entropy(logits.first).sum() / totals.prompts,
        "clip_fraction": (held * counted).sum() / totals.counted,
    }
    return loss, metrics
