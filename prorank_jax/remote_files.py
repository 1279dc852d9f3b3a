"""Files at URLs: `gs://bucket/path`, and `file:///path`, which takes the same way to a local folder.

Bucket access is that of `etils.epath`, which Orbax has already; it needs gcsfs (the extra `gcs`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from etils import epath
from etils.epath.backend import fsspec_backend  # its instance of a client, not one of another thread's

from prorank_jax.messages import install_extra
from prorank_jax.storage_faults import (
    OutOfReachError,
    http_status,
    is_left_behind,
    is_unfinished,
    refusal_of,
    storage_fault,
    whole_file,
)

Result = TypeVar("Result")

SCHEMES = ("gs", "file")
# Times are whole seconds: a small file that changed twice in one must not be mistaken for the first.
_ALWAYS_READ_BYTES = 1 << 20


def open_url(field: str, url: str) -> epath.Path:
    """The path behind a URL, after a new look that shows whether its bucket can be reached.

    Args:
        field: of the config, for messages.

    Raises:
        ValueError: an unknown scheme, no bucket or path, a missing package, or a bucket that does not answer.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        known = " or ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{field}={url!r}: cannot read {scheme}:// URLs; give a local folder, or {known}")
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError(f"{field}={url!r}: write file:///, and then the path from the root")
        return epath.Path(rest)
    if not rest.split("/")[0] or not rest.partition("/")[2].strip("/"):
        raise ValueError(f"{field}={url!r}: write gs://BUCKET/PATH")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it writes a traceback for what it then raises
    path = epath.Path(url.rstrip("/"))
    with_url_errors(field, url, lambda: _look_anew(path))
    return path


def _look_anew(path: epath.Path) -> None:
    forget_listings(path)
    path.exists()


def forget_listings(path: epath.Path) -> None:
    """Lets what others wrote to a bucket be seen: its client keeps what it listed while a process lives."""
    if has_no_folders(path):
        fsspec_backend.fs(path).invalidate_cache()


def check_bucket(field: str, url: str) -> None:
    """Refuses a bucket that cannot be asked for its own description, as Orbax asks for it.

    Orbax does so where checkpoints are there to list or to delete: without the permission a run would begin
    well, and not go on.

    Args:
        field: of the config, for messages.
        url: `gs://BUCKET/PATH`.

    Raises:
        ValueError: the permission is lacking, or the bucket cannot be reached; an `UnfetchedError` where the
            network is at fault.
    """
    bucket = url.partition("://")[2].partition("/")[0]

    def ask() -> None:
        from google.cloud import storage

        storage.Client().get_bucket(bucket)

    try:
        with_url_errors(field, url, ask)
    except ValueError as error:
        cause = error.__cause__
        if cause is None or http_status(cause) != HTTPStatus.FORBIDDEN:
            raise
        raise ValueError(
            f"{field}={url!r}: these credentials lack storage.buckets.get on gs://{bucket}, without which no "
            "checkpoint there can be listed or deleted; give them roles/storage.legacyBucketReader, beside "
            f"roles/storage.objectAdmin ({_reason(cause)})"
        ) from error


def with_url_errors(
    field: str,
    url: str,
    act: Callable[[], Result],
    *,
    worked_before: bool = False,
    here: Path | None = None,
) -> Result:
    """Runs something that touches a URL; whatever its client raises becomes one error.

    Args:
        field: of the config, for messages.
        worked_before: whether this run has used the URL already.
        here: what it is copied to.

    Raises:
        OSError: a fault of storage at `here`, of which nothing is wrong with the URL.
        ValueError: the URL, what it needs or its storage is at fault; an `UnfetchedError` where the network
            is.
        OutOfReachError: it worked before, so that what fails now may work again.
    """
    try:
        return act()
    except ImportError as error:
        raise ValueError(f"{field}={url!r}: needs gcsfs; {install_extra('gcs')}") from error
    except Exception as error:  # the clients have exception types of their own
        if here is not None and _is_fault_at(here, error):
            raise
        reason = _reason(error)
        if worked_before and storage_fault(error) is None:
            raise OutOfReachError(
                f"{field}={url!r}: cannot be reached any more ({type(error).__name__}: {reason}); repeat the "
                "same command when it can"
            ) from error
        raise refusal_of(error)(
            f"{field}={url!r}: cannot be reached ({type(error).__name__}: {reason}); check the name, the "
            "network and the credentials (gcloud auth application-default login)"
        ) from error


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _is_fault_at(here: Path, error: Exception) -> bool:
    """Whether an exception tells of a fault of storage at a place, below it, or where it is to be made."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str) or storage_fault(error) is None:
        return False
    named = Path(error.filename)
    return named.is_relative_to(here) or here.is_relative_to(named)


def has_no_folders(path: epath.Path) -> bool:
    """Whether a path is in a bucket. To make a folder there could make a bucket of a misspelt name."""
    return str(path).startswith("gs://")


def url_slug(url: str) -> str:
    """A folder name that is different for different URLs."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in url.rstrip("/").rpartition("/")[2])
    return f"{name}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"


def entries_of(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder, here or in a bucket, without names that no folder's entry can have.

    A bucket may hold any name: `a/../b` would lead out of the folder it is copied to. And an empty object
    `a/`, which consoles make for a folder, is listed as `a/a`, which is not there.
    """
    found = [path for path in folder.iterdir() if path.name not in ("", ".", "..") and "/" not in path.name]
    return [path for path in found if path.name != folder.name or path.exists()]


def files_below(folder: epath.Path, wanted: Callable[[str], bool], inside: str = "") -> Iterator[str]:
    """Relative names of the files below a folder; `wanted` is asked about each file and each folder."""
    for path in entries_of(folder):
        name = f"{inside}{path.name}"
        if not wanted(name):
            continue
        if path.is_dir():
            yield from files_below(path, wanted, f"{name}/")
        else:
            yield name


def fetch_folder(source: epath.Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Makes a local folder hold the wanted files of a remote one; large files it has are not read again."""
    forget_listings(source)
    names = set(files_below(source, wanted))
    for name in sorted(names):
        fetch_file(source / name, target / name)
    for path in list(target.rglob("*")) if target.is_dir() else []:
        name = path.relative_to(target).as_posix()
        if path.is_file() and name not in names and wanted(name) and not _is_being_written(path):
            path.unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Whether another process that fetches the same folder may be at this file."""
    with suppress(FileNotFoundError):
        return is_unfinished(path) and not is_left_behind(path)
    return True


def fetch_file(source: epath.Path, target: Path) -> None:
    """Copies a remote file here, whole or not at all; not a large one that is here with its size and time."""
    there = source.stat()
    if there.length >= _ALWAYS_READ_BYTES and target.is_file():
        here = target.stat()
        if (here.st_size, int(here.st_mtime)) == (there.length, int(there.mtime)):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, whole_file(target) as unfinished, unfinished.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
    # Only now: with an old time, what is unfinished would be taken for left behind.
    os.utime(target, (there.mtime, there.mtime))


def send_file(source: Path, target: epath.Path) -> None:
    """Copies a local file to a remote place, so that a reader sees the old one or the whole new one."""
    write_whole(target, source.read_bytes())


def write_whole(target: epath.Path, content: bytes) -> None:
    """Writes a file at a remote place, so that a reader sees the old one or the whole new one."""
    if has_no_folders(target):
        target.write_bytes(content)  # an object appears when it is complete
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Processes of other machines may have the same number and write there too.
    unfinished = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        unfinished.write_bytes(content)
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
