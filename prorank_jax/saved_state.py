"""How a training state lies among checkpoints: what only training reads, and what never changes, apart.

A step's item `state` has what a model is made of; `optimizer` has its moments, so that who only wants the
model need not fetch them. What low-rank factors leave frozen is saved once for a run, beside its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.checkpoint_reading import read_items
from prorank_jax.processes import leads, succeed_together
from prorank_jax.run_folder import FROZEN_FOLDER, OPTIMIZER_ITEM
from prorank_jax.types import Params, TrainState

STATE_ITEM = "state"
_WEIGHTS = "weights"


def parts_to_save(state: TrainState) -> dict[str, Any]:
    """The items of a step that hold a state."""
    if not jax.tree.leaves(state.opt_state):  # Orbax saves no tree without an array
        return {STATE_ITEM: state}
    return {STATE_ITEM: dataclasses.replace(state, opt_state={}), OPTIMIZER_ITEM: state.opt_state}


def parts_to_read(step: epath.Path, like: TrainState) -> dict[str, Any]:
    """The same of a step that is there; those of earlier versions hold all in one item."""
    return parts_to_save(like) if (step / OPTIMIZER_ITEM).exists() else {STATE_ITEM: like}


def joined(items: Mapping[str, Any]) -> TrainState:
    """The state whose parts were read."""
    state: TrainState = items[STATE_ITEM]
    if OPTIMIZER_ITEM not in items:
        return state
    return dataclasses.replace(state, opt_state=items[OPTIMIZER_ITEM])


def are_apart(checkpoints: epath.Path, frozen: Params, steps: list[int]) -> bool:
    """Whether the steps of a run leave its frozen weights to the folder beside them.

    They do, but for a run that an earlier version began: each of its steps holds them itself.
    """
    return bool(frozen) and (not steps or (checkpoints / FROZEN_FOLDER).exists())


def save_frozen(checkpoints: epath.Path, frozen: Params) -> None:
    """Saves them in the place of what is there; returns when they are complete. Every process calls it."""
    folder = checkpoints / FROZEN_FOLDER
    with succeed_together():
        if leads() and folder.exists():
            folder.rmtree()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.Composite(**{_WEIGHTS: ocp.args.StandardSave(frozen)}))


def read_frozen(checkpoints: epath.Path, like: Params) -> Params:
    """Reads them into the shapes and shardings of `like`; waits for no other process.

    Raises:
        DamagedCheckpointError: they cannot be read anywhere.
        OSError: this machine cannot read them at present.
    """
    how = ocp.args.Composite(**{_WEIGHTS: ocp.args.StandardRestore(like)})
    weights: Params = read_items(checkpoints / FROZEN_FOLDER, how)[_WEIGHTS]
    return weights


def bytes_of(tree: Any) -> int:
    """What a tree of arrays takes on a disk, at most."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
