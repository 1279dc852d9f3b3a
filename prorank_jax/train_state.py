"""The state of a run: what is trained, what stays frozen, and how both lie on the mesh."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prorank_jax.models.lora import combine, initial_factors, split_factors
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.sharding import replicated, state_shardings
from prorank_jax.stage_options import LoraOptions
from prorank_jax.types import Params, TrainState


def _split(model: Transformer, params: Any) -> tuple[Params, Params]:
    """What is trained, and what stays as it is."""
    return split_factors(params) if model.lora.rank else (params, {})


def train_state_shardings(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The sharding of every leaf of a `TrainState`, optimizer included."""
    trained, frozen = _split(model, abstract_params(model))
    opt_state = jax.eval_shape(optimizer.init, trained)
    where: Any = replicated(mesh)
    return TrainState(
        step=where,
        params=state_shardings(trained, mesh),
        opt_state=state_shardings(opt_state, mesh),
        frozen=state_shardings(frozen, mesh),
    )


def pretrained_shardings(model: Transformer, mesh: Mesh) -> Params:
    """The shardings of a pretrained model's parameters, which have no low-rank factors."""
    return state_shardings(split_factors(abstract_params(model))[1], mesh)


def init_state(
    params: Params,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    seed: int = 0,
) -> TrainState:
    """The state of step 0 around pretrained parameters that are already on the mesh.

    Args:
        seed: of the low-rank factors, if there are any.
    """
    trained, frozen = params, {}
    if model.lora.rank:
        shapes, _ = split_factors(nn.unbox(abstract_params(model)))
        frozen = params
        trained = jax.jit(lambda: initial_factors(shapes, seed), out_shardings=shardings.params)()
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(trained)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step=step, params=trained, opt_state=opt_state, frozen=frozen)


class Policy(NamedTuple):
    """A model with the parameters it computes with."""

    model: Transformer
    params: Params


def reference_shardings(model: Transformer, mesh: Mesh) -> Params | None:
    """How the parameters of a reference lie on the mesh; None with low-rank factors, which need none."""
    return None if model.lora.rank else pretrained_shardings(model, mesh)


def initial_policy(model: Transformer, state: TrainState, reference: Params | None) -> Policy:
    """The policy that training started from: with low-rank factors, the state's own frozen part.

    Args:
        reference: its parameters; None with low-rank factors.
    """
    params = state.frozen if reference is None else reference
    return Policy(model.clone(lora=LoraOptions()), params)


def all_params(state: TrainState) -> Params:
    """Everything the model computes with."""
    return combine(state.frozen, state.params)


def apply_gradients(
    state: TrainState, gradients: Params, loss: jax.Array, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer update of what is trained, or none where loss or gradients are not finite.

    A skipped update leaves parameters, moments and the schedule's count as they were. Gradients whose
    squares have no float32 sum count as not finite.

    Returns:
        The state, and `grad_norm` and `skipped` (0 or 1), float32.
    """

    def kept(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(is_finite, new, old)

    with jax.named_scope("optimizer"):
        norm = optax.global_norm(gradients)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params = jax.tree.map(kept, params, state.params)
        opt_state = jax.tree.map(kept, opt_state, state.opt_state)
    state = dataclasses.replace(state, params=params, opt_state=opt_state)
    return state, {"grad_norm": norm, "skipped": 1.0 - is_finite.astype(jnp.float32)}


def updates_made(state: TrainState, per_step: int) -> jax.Array:
    """How many updates the schedule has counted, which skipped ones are not.

    Args:
        per_step: updates of a step, for optimizers that count nothing.
    """
    counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")
    return counts[0][1] if counts else state.step * per_step
