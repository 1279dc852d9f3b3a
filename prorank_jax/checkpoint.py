"""Checkpoints of a run (Orbax): training state, data position, config and architecture, together.

Orbax writes each step into a temporary folder and renames it, so that a killed save leaves the step
before it intact; in a bucket, a step is complete once its marker file is there. A flipped bit in an array
would be read back unnoticed: each step holds fingerprints of what was saved, which are checked.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.checkpoint_reading import DamagedCheckpointError, compare_digests
from prorank_jax.killed_saves import delete_killed_saves
from prorank_jax.launching import AgreedOutageError
from prorank_jax.processes import gather_texts, leads, succeed_together
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from prorank_jax.saved_state import (
    are_apart,
    bytes_of,
    check_frozen,
    drop_frozen,
    is_of_frozen,
    parts_to_save,
    read_step,
    save_frozen,
)
from prorank_jax.state_digest import state_digests
from prorank_jax.storage_faults import check_room, within_reach
from prorank_jax.types import TrainState

Result = TypeVar("Result")

DAMAGED = ".damaged"
# What a checkpoint takes beside its arrays: descriptions, and the ends of many small files.
SPARE_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint read back: the state on its mesh, and the data iterator's JSON-able state."""

    state: TrainState
    iterator: dict[str, Any]


class Checkpoints:
    """The checkpoints of one output directory; close it, or use it as a context manager."""

    def __init__(self, output_dir: Path | epath.Path, keep: int) -> None:
        """Opens or creates `output_dir`/checkpoints, here or in a bucket; keeps the newest `keep` of them.

        Nobody else may be writing there: what killed saves left is deleted.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            # A CPU array's host copy is the array itself, which the next step's donation would overwrite.
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self._folder = _absolute(output_dir / CHECKPOINTS_FOLDER)
        with succeed_together():
            if leads():
                with within_reach(self._folder):
                    delete_killed_saves(self._folder)
        with within_reach(self._folder):
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        logging.getLogger("absl").addFilter(_is_told_once)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the other processes may not come, and waiting would wait for them.
        if kind is None or jax.process_count() == 1:
            self.wait()
            self._manager.close()
        logging.getLogger("absl").removeFilter(_is_told_once)

    def wait(self) -> None:
        """Returns when what is being saved is complete."""
        with within_reach(self._folder):
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        step: int,
        iterator: dict[str, Any],
        config: dict[str, Any],
        model: dict[str, Any],
    ) -> None:
        """Saves everything a resumed run needs as `step`; does nothing if that step is saved already.

        An older step is deleted when this one is complete, never before. What low-rank factors leave frozen
        is saved with the first step, beside it, and not again.

        Raises:
            OSError: a full disk or another fault of storage, at this save or an earlier one that went on
                in the background; the steps that were complete stay.
        """
        if step == self.latest():
            return
        with within_reach(self._folder / str(step)):
            # Whether there is a complete step decides where the frozen weights go.
            self._manager.wait_until_finished()
            steps = list(self._manager.all_steps())
            apart = are_apart(self._folder, state.frozen, steps)
            changing = dataclasses.replace(state, frozen={}) if apart else state
            content = ocp.args.Composite(
                **{name: ocp.args.StandardSave(part) for name, part in parts_to_save(changing).items()},
                iterator=ocp.args.JsonSave(iterator),
                config=ocp.args.JsonSave(config),
                model=ocp.args.JsonSave(model),
                digests=ocp.args.JsonSave(state_digests(state) | {"iterator": _text_digest(iterator)}),
            )
            if apart and not steps:
                drop_frozen(self._folder)
            # Orbax tells of a full disk too, but once for each of the files it could not write.
            if "://" not in str(self._folder):
                check_room(self._folder, bytes_of(changing if steps else state) + SPARE_BYTES)
            if apart and not steps:
                save_frozen(self._folder, state.frozen)
            self._manager.save(step, args=content)

    def restore(self, step: int, like: TrainState) -> Restored:
        """Reads a step into the shapes, dtypes and shardings of `like` (abstract or concrete arrays).

        Every process calls it.

        Raises:
            DamagedCheckpointError: in all of them, where one cannot read it or it is not what was saved.
            OSError: this machine cannot read it at present.
        """
        restored, expected, apart = _refused_by_all(partial(self._read, step, like))
        _refused_by_all(partial(self._compare, step, restored, expected, apart))
        return restored

    def _read(self, step: int, like: TrainState) -> tuple[Restored, dict[str, int], bool]:
        """A step, the fingerprints that were saved with it, and whether its frozen weights lie beside it."""
        others = {"iterator": ocp.args.JsonRestore(), "digests": ocp.args.JsonRestore()}
        items, apart = read_step(self._folder, step, like, others)
        return Restored(items["state"], items["iterator"]), items["digests"], apart

    def _compare(self, step: int, restored: Restored, expected: dict[str, int], apart: bool) -> None:
        """Refuses what is not as it was saved; every process calls it, for each holds a part of the state."""
        state = restored.state
        if apart:
            check_frozen(self._folder, state.frozen, expected)
            state = dataclasses.replace(state, frozen={})
        found = state_digests(state) | {"iterator": _text_digest(restored.iterator)}
        compare_digests(self._folder / str(step), found, expected)

    def restore_newest(self, like: TrainState) -> tuple[Restored, int] | None:
        """The newest step that is intact, with its number; None where there is no step at all.

        Damaged steps above it are renamed, so that they can be saved anew. Every process calls it.

        Raises:
            ValueError: every step is damaged, or what all of them need; nothing was changed.
            OSError: this machine cannot read a step at present, or the processes see other steps; nothing
                was changed.
        """
        damaged: list[int] = []
        of_frozen: DamagedCheckpointError | None = None
        for step in self._steps_seen_by_all():
            try:
                restored = self.restore(step, like)
            except DamagedCheckpointError as error:
                _log.warning("skipping a damaged checkpoint: %s", error)
                if is_of_frozen(self._folder, error):
                    of_frozen = error  # unless an older step agrees with them
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return restored, step
        if of_frozen is not None:
            raise of_frozen
        if damaged:
            raise ValueError(
                f"{self._folder}: none of the checkpoints {sorted(damaged)} can be read; bring one back "
                "from a copy, or name a new output_dir"
            )
        return None

    def _steps_seen_by_all(self) -> list[int]:
        """The complete steps, newest first."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        seen = gather_texts(json.dumps(steps))
        if differing := next((other for other in seen if other != seen[0]), None):
            raise AgreedOutageError(
                f"{self._folder}: process 0 sees the checkpoints {seen[0]}, another one {differing}; mount "
                "one folder for all, and start again when all see the same"
            )
        return steps

    def _set_aside(self, steps: list[int]) -> None:
        with succeed_together():
            for step in steps if leads() else ():
                (self._folder / str(step)).rename(_free_name(self._folder, f"{step}{DAMAGED}"))
        if steps:
            self._manager.reload()


def _refused_by_all(work: Callable[[], Result]) -> Result:
    """What the work gives, unless it meets damage in this process or in another."""
    result: list[Result] = []
    damage: DamagedCheckpointError | None = None
    try:
        result.append(work())
    except DamagedCheckpointError as error:
        damage = error
    told = next(filter(None, gather_texts("" if damage is None else str(damage))), "")
    if told:
        raise DamagedCheckpointError(told) from damage
    return result[0]


def _free_name(folder: epath.Path, name: str) -> epath.Path:
    """`name` in a folder, or the first of `name.2`, `name.3`, ... that is not there yet."""
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    return next(folder / free for free in names if not (folder / free).exists())


def _is_told_once(record: logging.LogRecord) -> bool:
    """Leaves out what Orbax's threads write of an exception that then reaches the caller."""
    return "_SignalingThread.run() raised an exception" not in record.getMessage()


def _text_digest(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _absolute(folder: Path | epath.Path) -> epath.Path:
    """As Orbax wants it; the path of a URL is absolute, and would lose its scheme."""
    path = epath.Path(folder)
    return path if "://" in str(path) else epath.Path(Path(folder).absolute())
