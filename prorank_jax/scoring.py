"""The relevance score: s = logit("1") − logit("0") at the last prompt position (arXiv 2506.03487)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.transformer import Transformer, last_positions
from prorank_jax.prompts import AnswerTokens
from prorank_jax.types import Batch, Params


def relevance_scores(model: Transformer, params: Params, batch: Batch, answers: AnswerTokens) -> jax.Array:
    """Scores of a batch of prompts: [B] float32, higher is more relevant.

    Two rows of the output embedding are all that is needed, so the vocabulary is never projected on.
    """
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    hidden, _ = model.apply({"params": params}, batch.tokens, layout)
    direction = model.apply({"params": params}, answers.zero, answers.one, method="answer_direction")
    last = last_positions(hidden, batch.lengths).astype(jnp.float32)
    return jnp.einsum("bd,d->b", last, direction, precision=jax.lax.Precision.HIGHEST)
