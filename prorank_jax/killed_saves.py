"""What saves left in a folder of checkpoints that were killed: on a disk, and in a bucket."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from etils import epath

from prorank_jax.remote_files import entries_of, forget_listings, has_no_folders
from prorank_jax.run_folder import FROZEN_FOLDER

UNFINISHED_STEP = ".orbax-checkpoint-tmp"
# In a bucket, whose objects cannot be renamed, a save writes under the step's own name, and this last of all.
COMPLETE_MARKER = "commit_success.txt"
STEP_METADATA = "_CHECKPOINT_METADATA"
_log = logging.getLogger(__name__)


def delete_killed_saves(folder: epath.Path) -> None:
    """Deletes what Orbax never made whole. It can do so itself, but a fault of that stops its next save.

    Nobody may be saving there. What cannot be deleted is told of.
    """
    for unfinished in _killed_in_bucket(folder) if has_no_folders(folder) else _killed_on_disk(folder):
        try:
            unfinished.rmtree()
            # In a bucket the first round may only take the empty objects that stand for folders.
            unfinished.rmtree(missing_ok=True)
        except Exception as error:  # clients of buckets have types of their own
            _log.warning("%s: left by a killed save, and cannot be deleted (%s)", unfinished, error)


def _killed_on_disk(folder: epath.Path) -> list[epath.Path]:
    return list(folder.glob(f"*{UNFINISHED_STEP}*"))


def _killed_in_bucket(folder: epath.Path) -> Iterator[epath.Path]:
    """The steps without a marker that say of themselves that they were begun, and not that they were ended.

    Others without one are named: somebody may have copied them there without it.
    """
    forget_listings(folder)
    for step in entries_of(folder) if folder.is_dir() else ():
        is_saved_by_us = step.name.isdecimal() or step.name == FROZEN_FOLDER
        if not is_saved_by_us or (step / COMPLETE_MARKER).exists():
            continue
        if _was_begun_only(step):
            yield step
        else:
            _log.warning(
                "%s: lacks %s, so it is no complete checkpoint; it may be a copy, and is left alone",
                step,
                COMPLETE_MARKER,
            )


def _was_begun_only(step: epath.Path) -> bool:
    try:
        told = json.loads((step / STEP_METADATA).read_text())
    except (FileNotFoundError, ValueError):
        return False
    begun, ended = "init_timestamp_nsecs", "commit_timestamp_nsecs"
    return isinstance(told, dict) and told.get(begun) is not None and told.get(ended, 0) is None
