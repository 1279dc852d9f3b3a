"""How a training state lies among checkpoints: what only training reads, and what never changes, apart.

A step's item `state` has what a model is made of; `optimizer` has its moments, so that who only wants the
model need not fetch them. What low-rank factors leave frozen is saved once for a run, beside its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.checkpoint_reading import (
    DamagedCheckpointError,
    compare_digests,
    read_items,
    refusing_damage,
)
from prorank_jax.processes import gather_texts, leads, succeed_together
from prorank_jax.run_folder import FROZEN_FOLDER, OPTIMIZER_ITEM
from prorank_jax.state_digest import state_digests
from prorank_jax.storage_faults import within_reach
from prorank_jax.types import Params, TrainState

STATE_ITEM = "state"
_WEIGHTS = "weights"
_TREE_FILE = "_METADATA"  # which Orbax writes for each tree of arrays


def parts_to_save(state: TrainState) -> dict[str, Any]:
    """The items of a step that hold a state."""
    if not jax.tree.leaves(state.opt_state):  # Orbax saves no tree without an array
        return {STATE_ITEM: state}
    return {STATE_ITEM: dataclasses.replace(state, opt_state={}), OPTIMIZER_ITEM: state.opt_state}


def parts_to_read(step: epath.Path, like: TrainState) -> dict[str, Any]:
    """The same of a step that is there; those of earlier versions hold all in one item.

    Raises:
        OSError: this machine cannot look at present.
    """
    return parts_to_save(like) if _holds(step / OPTIMIZER_ITEM) else {STATE_ITEM: like}


def read_step(
    checkpoints: epath.Path, step: int, like: TrainState, others: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The items of a step by name, `state` whole, and whether its frozen weights lie beside it.

    Waits for no other process.

    Args:
        like: shapes, dtypes and shardings of the state.
        others: how the other items are read.

    Raises:
        DamagedCheckpointError: an item is missing or cannot be read anywhere.
        OSError: this machine cannot read it at present.
    """
    folder = checkpoints / str(step)
    with refusing_damage(folder), within_reach(folder):
        apart = are_apart(checkpoints, like.frozen, [step])
        parts = parts_to_read(folder, dataclasses.replace(like, frozen={}) if apart else like)
    how = {name: ocp.args.StandardRestore(part) for name, part in parts.items()}
    items = read_items(folder, ocp.args.Composite(**how, **others))
    state: TrainState = items[STATE_ITEM]
    if OPTIMIZER_ITEM in items:
        state = dataclasses.replace(state, opt_state=items.pop(OPTIMIZER_ITEM))
    if apart:
        state = dataclasses.replace(state, frozen=read_frozen(checkpoints, like.frozen))
    return items | {STATE_ITEM: state}, apart


def are_apart(checkpoints: epath.Path, frozen: Params, steps: list[int]) -> bool:
    """Whether the steps of a run leave its frozen weights to the folder beside them.

    They do, but for a run that an earlier version began: each of its steps holds them itself.

    Raises:
        OSError: this machine cannot look at present.
    """
    return bool(frozen) and (not steps or _holds(checkpoints / FROZEN_FOLDER / _WEIGHTS))


def _holds(item: epath.Path) -> bool:
    # `exists` is false for any fault of the disk or the network, and a bucket has no folders.
    try:
        (item / _TREE_FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def drop_frozen(checkpoints: epath.Path) -> None:
    """Deletes what a start left that saved no step: it may have been of other weights.

    Every process calls it.
    """
    with succeed_together():
        if leads() and (checkpoints / FROZEN_FOLDER).exists():
            (checkpoints / FROZEN_FOLDER).rmtree()


def save_frozen(checkpoints: epath.Path, frozen: Params) -> None:
    """Saves them; returns when they are complete. Every process calls it."""
    # After a fault, folders that are made in threads would keep the process for minutes.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(async_options=options))
    # The other one waits for slower processes in a collective of the devices, which may give up.
    kind = ocp.Checkpointer if jax.default_backend() == "cpu" else ocp.AsyncCheckpointer
    with kind(handler) as checkpointer:
        # A process may still see what another one has deleted.
        checkpointer.save(
            checkpoints / FROZEN_FOLDER,
            args=ocp.args.Composite(**{_WEIGHTS: ocp.args.StandardSave(frozen)}),
            force=True,
        )
        if isinstance(checkpointer, ocp.AsyncCheckpointer):
            checkpointer.wait_until_finished()
    gather_texts("")


def read_frozen(checkpoints: epath.Path, like: Params) -> Params:
    """Reads them into the shapes and shardings of `like`; waits for no other process.

    Raises:
        DamagedCheckpointError: they cannot be read anywhere.
        OSError: this machine cannot read them at present.
    """
    how = ocp.args.Composite(**{_WEIGHTS: ocp.args.StandardRestore(like)})
    with _naming_remedy():
        weights: Params = read_items(checkpoints / FROZEN_FOLDER, how)[_WEIGHTS]
    return weights


def check_frozen(checkpoints: epath.Path, frozen: Params, expected: Mapping[str, int]) -> None:
    """Refuses weights that are not those whose fingerprints a step holds.

    Raises:
        DamagedCheckpointError: names the folder, not the step.
    """
    with _naming_remedy():
        found = state_digests({"frozen": frozen})
        compare_digests(checkpoints / FROZEN_FOLDER, found, dict(expected))


def is_of_frozen(checkpoints: epath.Path, error: DamagedCheckpointError) -> bool:
    """Whether it is the frozen weights that are damaged, which all steps need."""
    return str(error).startswith(f"{checkpoints / FROZEN_FOLDER}: ")


@contextmanager
def _naming_remedy() -> Iterator[None]:
    try:
        yield
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(
            f"{error}; all checkpoints need it: bring it back from a copy, or take what a new run with the "
            f"same model.source and lora.* writes into {FROZEN_FOLDER} at its first checkpoint"
        ) from error


def bytes_of(tree: Any) -> int:
    """What a tree of arrays takes on a disk, at most."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
