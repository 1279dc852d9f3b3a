"""Checkpoints of a run (Orbax): training state, data position, config and architecture, together.

Orbax writes each step into a temporary folder and renames it, so that a killed save leaves the step
before it intact. This module is the one place that knows Orbax.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from prorank_jax.types import TrainState

FOLDER = "checkpoints"


class Restored(NamedTuple):
    """A checkpoint read back: the state on its mesh, and the data iterator's JSON-able state."""

    state: TrainState
    iterator: dict[str, Any]


class Checkpoints:
    """The checkpoints of one output directory; close it, or use it as a context manager."""

    def __init__(self, output_dir: Path, keep: int) -> None:
        """Opens or creates `output_dir`/checkpoints and keeps the newest `keep` of them."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            # A CPU array's host copy is the array itself, which the next step's donation would overwrite.
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self._manager = ocp.CheckpointManager((output_dir / FOLDER).absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

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
        """Saves everything a resumed run needs as `step`; does nothing if that step is saved already."""
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                iterator=ocp.args.JsonSave(iterator),
                config=ocp.args.JsonSave(config),
                model=ocp.args.JsonSave(model),
            ),
        )

    def restore(self, step: int, like: TrainState) -> Restored:
        """Reads a step into the shapes, dtypes and shardings of `like` (abstract or concrete arrays)."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like),
                iterator=ocp.args.JsonRestore(),
            ),
        )
        return Restored(restored["state"], restored["iterator"])
