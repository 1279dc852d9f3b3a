"""The learning-rate schedule and the optimizer (optax)."""

from __future__ import annotations

import jax
import optax

from prorank_jax.config import OptimizerOptions


def make_schedule(options: OptimizerOptions, updates: int) -> optax.Schedule:
    """Linear warmup from peak / (warmup + 1), then the decay of `options.schedule`.

    A `linear` or `cosine` decay ends at `final_fraction` of the peak.

    Args:
        options: of the optimizer.
        updates: how many optimizer updates the run makes.

    Raises:
        ValueError: the warmup leaves no update to train with.
    """
    peak, warmup = options.learning_rate, options.warmup_steps
    if warmup >= updates:
        raise ValueError(f"optimizer.warmup_steps={warmup}: must be below the {updates} updates of the run")
    rest, end = updates - warmup, options.final_fraction
    decay = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * end, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=end),
    }[options.schedule]
    # The first update already moves: rate 0 would waste a step.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, decay], [warmup]) if warmup else decay


def make_optimizer(options: OptimizerOptions, updates: int) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; norms and biases are not decayed."""
    return optax.chain(
        optax.clip_by_global_norm(options.max_grad_norm),
        optax.adamw(
            make_schedule(options, updates),
            b1=options.b1,
            b2=options.b2,
            eps=options.eps,
            weight_decay=options.weight_decay,
            mask=decayed_parameters,
        ),
    )


def decayed_parameters(params: optax.Params) -> optax.Params:
    """True for matrices, False for norms' scales and biases."""

    def is_decayed(path: tuple, _: object) -> bool:
        # Leaves may be boxed with their axis names, which adds an entry to the path.
        names = {getattr(entry, "key", None) for entry in path}
        return names.isdisjoint({"scale", "bias"})

    return jax.tree_util.tree_map_with_path(is_decayed, params)
