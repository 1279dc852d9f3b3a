"""Reading a step of a run's checkpoints, and refusing one that is not what was saved.

This module, `checkpoint`, `checkpoint_params` and `killed_saves` are the places that know Orbax's
checkpoints.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from prorank_jax.storage_faults import obstacle, storage_fault, within_reach


class DamagedCheckpointError(ValueError):
    """A step that cannot be read back as it was saved."""


def read_items(folder: Path | epath.Path, wanted: ocp.args.Composite) -> dict[str, Any]:
    """Items of a complete step by name, each as `wanted` says; waits for no other process.

    A `CheckpointManager` would end with a barrier, where the others wait for one that cannot read.

    Raises:
        DamagedCheckpointError: an item is missing or cannot be read anywhere.
        OSError: this machine cannot read it at present.
    """
    reader = ocp.CompositeCheckpointHandler()
    with closing(reader), refusing_damage(folder), within_reach(folder):
        restored = reader.restore(folder, args=wanted)
        return {name: restored[name] for name in wanted}


def compare_digests(folder: Path | epath.Path, found: dict[str, int], expected: dict[str, int]) -> None:
    """Refuses what was read where its fingerprints are not among those that were saved."""
    differing = [name for name, digest in found.items() if expected.get(name) != digest]
    if differing:
        raise _damaged(folder, f"{differing[0]} is not what was saved")


@contextmanager
def refusing_damage(folder: Path | epath.Path) -> Iterator[None]:
    """Orbax raises anything for a file that is damaged: KeyError, JSONDecodeError, a bare Exception."""
    try:
        yield
    except Exception as error:
        if obstacle(error) is not None or storage_fault(error) not in (None, errno.EIO):
            raise  # this machine cannot read it now, another may
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error


def _damaged(folder: Path | epath.Path, why: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{folder}: {' '.join(why.split())[:300]}")
