"""Which setting to change when a step does not fit, the one that costs least time first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prorank_jax.aot.chips import GIB, Chip
from prorank_jax.aot.estimate import estimate_step
from prorank_jax.config import REMAT_POLICIES, RunConfig
from prorank_jax.models.config import ModelConfig

# What a platform can compute attention with; the last needs the least memory.
ATTENTION = {"tpu": ("xla", "splash"), "cuda": ("xla", "cudnn")}


def with_changes(config: RunConfig, changes: dict[str, Any]) -> RunConfig | None:
    """The config with some fields of its sections changed, or None if it cannot work so."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = value
    try:
        changed = {name: replace(getattr(config, name), **fields) for name, fields in sections.items()}
        return replace(config, **changed)
    except ValueError:
        return None


def divides_the_model(shape: ModelConfig, fsdp: int, tensor: int) -> bool:
    """Whether every parameter splits evenly, attention heads too."""
    by_tensor = (shape.heads, shape.kv_heads, shape.mlp_dim, shape.vocab_size)
    return shape.dim % fsdp == 0 and all(size % tensor == 0 for size in by_tensor)


def knobs(config: RunConfig, shape: ModelConfig, chip: Chip, mesh: dict[str, int]) -> list[dict[str, Any]]:
    """Changes that save memory, from the cheapest in time to the dearest."""
    changes: list[dict[str, Any]] = []
    if config.model.attention == "xla":
        changes.append({"model.attention": ATTENTION[chip.platform][-1]})
    ways = mesh["data"] * mesh["fsdp"]
    if mesh["data"] > 1 and divides_the_model(shape, ways, mesh["tensor"]):
        changes.append({"mesh.data": 1, "mesh.fsdp": ways})
    stronger = REMAT_POLICIES[REMAT_POLICIES.index(config.model.remat) + 1 :]
    changes += [{"model.remat": name} for name in stronger]
    batch, parts = config.train.batch_size, config.train.accumulation
    for times in (2, 4, 8):
        if batch % (parts * times * ways) == 0:
            changes.append({"train.accumulation": parts * times})
    if batch % (2 * ways) == 0:
        changes.append({"train.batch_size": batch // 2})
    return changes


def advise(
    config: RunConfig, which: str, shape: ModelConfig, chip: Chip, mesh: dict[str, int], needed: int
) -> list[tuple[dict[str, Any], str]]:
    """Changes that a config may take, each with a sentence about the memory it is estimated to save.

    Args:
        which: `1`, `2` or `score`.
        needed: bytes that the step as it is needs.
    """
    if which == "score":
        halves = {"train.batch_size": config.train.batch_size // 2}
        return [(halves, f"{as_arguments(halves)} halves the activations")]
    now = estimate_step(config, which, shape, chip, mesh).bytes
    found = []
    for change in knobs(config, shape, chip, mesh):
        changed = with_changes(config, change)
        if changed is None:
            continue
        sizes = mesh | {name[5:]: size for name, size in change.items() if name.startswith("mesh.")}
        share = estimate_step(changed, which, shape, chip, sizes).bytes / now
        if share < 1:
            found.append(
                (change, f"{as_arguments(change)}: about {needed * share / GIB:.1f} GiB (an estimate)")
            )
    return found


def as_arguments(changes: dict[str, Any]) -> str:
    """Overrides ready to paste behind a command."""
    return " ".join(f"--{name} {value}" for name, value in changes.items())
