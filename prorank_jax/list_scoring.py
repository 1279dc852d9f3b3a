"""The jitted step that scores lists of prompts."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.sharding import Mesh

from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.prompts import AnswerTokens
from prorank_jax.scoring import list_hidden, score_from_hidden
from prorank_jax.sharding import LOGICAL_RULES, batch_sharding, replicated, state_shardings
from prorank_jax.types import ListBatch, Params


def make_list_score_step(
    model: Transformer, answers: AnswerTokens, mesh: Mesh
) -> Callable[[Params, ListBatch], jax.Array]:
    """Builds the jitted `(params, batch) → scores [Q, K] float32`.

    What the prompts of a list share runs once.
    """

    def step(params: Params, batch: ListBatch) -> jax.Array:
        with nn.logical_axis_rules(LOGICAL_RULES):
            return score_from_hidden(model, params, list_hidden(model, params, batch), answers)

    params = state_shardings(abstract_params(model), mesh)
    return jax.jit(step, in_shardings=(params, batch_sharding(mesh)), out_shardings=replicated(mesh))
