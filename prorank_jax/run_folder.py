"""The output directory of a run: whose it is, and the files that describe it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_to_dict, default_fields, flatten, read_plain_yaml
from prorank_jax.remote_files import entries_of
from prorank_jax.storage_faults import REMEDIES, is_left_behind, naming_place, whole_file

if TYPE_CHECKING:
    from etils import epath

CONFIG_FILE = "config.yaml"
REPORT_FILE = "report.json"
LOCK_FILE = ".lock"
LEASE_FILE = "lease.json"
MARKER = ".shared-"
UNFINISHED = ".unfinished-"  # begins the name of a folder that is being made
DATA_FOLDER = "data"
CHECKPOINTS_FOLDER = "checkpoints"
FROZEN_FOLDER = "frozen"  # among the checkpoints, with low-rank factors
OPTIMIZER_ITEM = "optimizer"  # of a checkpoint: what only training reads
TOKENIZER_FOLDER = "tokenizer"
MODEL_CONFIG_FILE = "model_config.json"
# What may differ when a run goes on: where it lives, what it shows, and the machine it runs on, with how a
# step is fitted to that, which changes results by rounding only.
FREE_FIELDS = (
    "output_dir",
    "train.sample_every",
    "train.max_skipped",
    "train.profile_steps",
    "train.accumulation",
    "model.remat",
    "model.attention",
    "grpo.packing",
    "ranking.packing",
    "probe.batch_size",
    "checkpoint.",
    "mesh.",
)


# What a stage does not read: correcting stage 2's losses must not cost the stage 1 that the same command
# trained. Probes of both stages sample as many tokens as stage 1.
UNREAD_SECTIONS = {1: "ranking.", 2: "grpo."}
READ_BY_BOTH = "grpo.max_new_tokens"


def _is_free(name: str, stage: int) -> bool:
    if name != READ_BY_BOTH and name.startswith(UNREAD_SECTIONS[stage]):
        return True
    return any(name == free or (free.endswith(".") and name.startswith(free)) for free in FREE_FIELDS)


def _is_left_by_an_early_stop(name: str) -> bool:
    """What a run writes before its config.yaml."""
    if name in (LOCK_FILE, LEASE_FILE, DATA_FOLDER) or name.startswith(MARKER):
        return True
    return name.startswith((f".{CONFIG_FILE}.", f".{LEASE_FILE}.")) and name.endswith(".tmp")


def _source_beside(fields: Mapping[str, Any]) -> str:
    """Where a run starts from the run beside it, its folder's name, else empty: both may have been moved."""
    source, folder = Path(str(fields["model.source"])), Path(str(fields["output_dir"]))
    return source.name if source.parent == folder.parent and source != folder else ""


def check_same_run(output_dir: Path | epath.Path, config: RunConfig) -> None:
    """Refuses to go on in a directory, here or in a bucket, that holds another run or anything else.

    Raises:
        ValueError: names the fields that differ, or says that the folder is no run's.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir={str(output_dir)!r}: is a file; name a folder")
    file = output_dir / CONFIG_FILE
    if not file.is_file():
        there = sorted(path.name for path in entries_of(output_dir)) if output_dir.is_dir() else []
        strangers = [name for name in there if not _is_left_by_an_early_stop(name)]
        if strangers:
            raise ValueError(
                f"output_dir={str(output_dir)!r}: holds {strangers[0]!r} but no {CONFIG_FILE} of a run; "
                "name an empty or new folder"
            )
        return
    try:
        saved = flatten(read_plain_yaml(file))
        saved["stage"]  # which every config of a run has
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{file}: not the config of a run; name another output_dir") from error
    current = flatten(config_to_dict(config))
    saved = default_fields() | saved
    if (beside := _source_beside(saved)) and beside == _source_beside(current):
        current["model.source"] = saved["model.source"]
    differing = [
        name
        for name in sorted(saved | current)
        if saved.get(name) != current.get(name) and not _is_free(name, config.stage)
    ]
    if differing:
        changes = ", ".join(f"{n} is {saved.get(n)!r} there, {current.get(n)!r} here" for n in differing)
        raise ValueError(
            f"output_dir={str(output_dir)!r}: belongs to a run of another config ({changes}); "
            "name another output_dir, or repeat that run's config to resume it"
        )


def write_atomically(file: Path, content: bytes) -> None:
    """Writes a file so that a reader, a kill or a full disk sees the old one or the whole new one."""
    with whole_file(file) as unfinished:
        unfinished.write_bytes(content)


def write_text_atomically(file: Path, text: str) -> None:
    """`write_atomically` of UTF-8."""
    write_atomically(file, text.encode("utf-8"))


def remove_leftovers(folder: Path) -> None:
    """Deletes the `UNFINISHED` folders that killed processes left in a folder.

    Young ones may belong to a process that still writes.
    """
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process may delete it first
            if is_left_behind(unfinished):
                shutil.rmtree(unfinished, ignore_errors=True)


def append_lines(file: Path, lines: str) -> None:
    """Appends to a file of lines; where that fails half-way, its last line is torn."""
    with naming_place(file), file.open("a", encoding="utf-8") as opened:
        opened.write(lines)


def write_config(output_dir: Path, config: RunConfig) -> None:
    """Writes config.yaml, the file that makes a folder a run's.

    One that says the same stays, byte for byte, also where an earlier version had fewer fields: evaluations
    of its time know the run by this file.
    """
    file = output_dir / CONFIG_FILE
    if file.is_file() and default_fields() | flatten(read_plain_yaml(file)) == flatten(
        config_to_dict(config)
    ):
        return
    write_text_atomically(file, yaml.safe_dump(config_to_dict(config), sort_keys=False))


def write_json(file: Path, content: Any) -> None:
    """Writes JSON, whole or not at all; refuses NaN and infinity, which JSON has no words for."""
    write_text_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def only_run_in(output_dir: Path) -> Iterator[None]:
    """Holds the directory for this process, so that two runs never write to it at once.

    A directory that was not there is taken away again if the run fails before it writes to it.

    Raises:
        ValueError: another process holds it, or the folder cannot be written to or locked.
    """
    try:
        is_new = not output_dir.exists()
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = (output_dir / LOCK_FILE).open("w")
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "name another")
        raise ValueError(
            f"output_dir={str(output_dir)!r}: cannot be written to ({error.strerror}); {remedy}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"output_dir={str(output_dir)!r}: another run is writing there; wait for it or name another"
            ) from error
        except OSError as error:  # as on a shared file system without locks
            raise ValueError(
                f"output_dir={str(output_dir)!r}: cannot be locked ({error.strerror}), and two runs could "
                "write there at once; name a folder on a file system with locks"
            ) from error
        try:
            yield
        except BaseException:
            if is_new:
                _remove_if_unused(output_dir)
            raise


def _remove_if_unused(output_dir: Path) -> None:
    """Takes a folder away again in which nothing but the lock was made."""
    if [path.name for path in output_dir.iterdir()] == [LOCK_FILE]:
        (output_dir / LOCK_FILE).unlink()
        output_dir.rmdir()
