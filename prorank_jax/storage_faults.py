"""Faults of storage, such as a full disk, told as one OSError: the place, what is wrong, what helps.

What is wrong with the way to a place, such as a network that is down, is an `OutOfReachError`; a computation
that finds no room is a `TooLittleMemoryError`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

# Nobody writes one file or folder for so long.
_LEFT_BEHIND_SECONDS = 24 * 3600
_UNFINISHED = ".tmp"
_NOT_ALLOWED = "see whose it is and who may use it, or name another place"
REMEDIES = {
    errno.ENOSPC: "free space there, and repeat the same command",
    errno.EDQUOT: "free space there or ask for a larger quota, and repeat the same command",
    errno.EFBIG: "raise the limit of a file's size, and repeat the same command",
    errno.EROFS: "make it writable, or name another place",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EMFILE: "raise the limit of open files (ulimit -n), and repeat the same command",
    errno.EIO: "check the disk, and repeat the same command elsewhere if it fails again",
}
# As C++ and Rust libraries tell them, in the text of exceptions of their own.
_TOLD = {os.strerror(code): code for code in REMEDIES if code not in (errno.EACCES, errno.EPERM)}
# What an OSError says of a file that is not what was written, or not there, wherever it is read.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
_OF_THE_DISK = (errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO))
# How tensorstore and XLA begin the text of what says nothing of a file. UNKNOWN is also a disk's EIO.
_OF_THE_WAY = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED"
    "|UNAVAILABLE|UNKNOWN): "
)
# Clients of networks, whose exceptions of their own are about access; a missing object is FileNotFoundError.
_CLIENTS = ("aiohttp.", "gcsfs.", "google.api_core.", "google.auth.", "requests.", "urllib3.")
# What these packages name that tells of a connection; not all of it is a ConnectionError of Python's own.
_OF_A_CONNECTION = {
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("google", "TransportError"),
    *(
        (package, name)
        for package in ("httpx", "httpx2")
        for name in ("NetworkError", "ProxyError", "RemoteProtocolError", "TimeoutException")
    ),
    ("requests", "ChunkedEncodingError"),
    ("requests", "ConnectionError"),
    ("requests", "Timeout"),
}
_TOLD_CHARACTERS = 300
# HTTP: a request that came too slowly, or too many of them, and all that is the server's own.
_PASSING = {408, 429, *range(500, 600)}


class OutOfReachError(OSError):
    """The way to a place fails at present: nothing is wrong with the input, and another try may succeed."""


class UnfetchedError(ValueError, OutOfReachError):
    """What was named is not here, and the network that should bring it fails: another try may succeed."""


class TooLittleMemoryError(MemoryError):
    """A computation does not fit on the machine; its text names what to change."""


def storage_fault(error: BaseException) -> int | None:
    """The errno of the fault of storage that an exception tells of; None if it tells of none."""
    for seen in _with_causes(error):
        if isinstance(seen, OSError) and seen.errno in REMEDIES:
            return seen.errno
    return next((code for text, code in _TOLD.items() if text in str(error)), None)


def obstacle(error: BaseException) -> BaseException | None:
    """What an exception, or a cause of it, tells of the way to a file: the network, rights, this machine.

    None where it is about the file, which is then missing or damaged.
    """
    return next((seen for seen in _with_causes(error) if _is_of_the_way(seen)), None)


def is_outage(error: BaseException) -> bool:
    """Whether an exception, or a cause of it, tells of a network or a server that fails at present.

    A certificate that is not trusted will not be at the next try either.
    """
    told = list(_with_causes(error))
    is_distrust = any(isinstance(seen, ssl.SSLCertVerificationError) for seen in told)
    return not is_distrust and any(_is_of_the_network(seen) for seen in told)


def http_status(error: BaseException) -> int | None:
    """The status of the answer that a client of HTTP tells of; None where it tells of none."""
    response = getattr(error, "response", None)
    told = [getattr(error, name, None) for name in ("code", "status")]
    told += [getattr(response, name, None) for name in ("status_code", "status")]
    numbers = (int(one) for one in told if isinstance(one, int) or (isinstance(one, str) and one.isdecimal()))
    return next((number for number in numbers if 100 <= number < 600), None)


def refusal_of(*errors: BaseException) -> type[ValueError]:
    """What to raise of a name that cannot be had: an `UnfetchedError` where one of these is an outage."""
    return UnfetchedError if any(map(is_outage, errors)) else ValueError


def _is_of_the_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return True
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return not kinds.isdisjoint(_OF_A_CONNECTION) or http_status(error) in _PASSING


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_of_the_device(error: BaseException) -> bool:
    """Of memory or computation, XLA's as a rule; nothing here imports jax."""
    return isinstance(error, MemoryError) or type(error).__module__.split(".")[0] in ("jax", "jaxlib")


def _is_of_the_way(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return False
    if isinstance(error, OSError):
        return error.errno not in (*_OF_THE_FILE, *_OF_THE_DISK)
    if isinstance(error, MemoryError) or type(error).__module__.startswith(_CLIENTS):
        return True
    return bool(_OF_THE_WAY.match(str(error))) and os.strerror(errno.EIO) not in str(error)


@contextmanager
def naming_place(place: PurePath | str) -> Iterator[None]:
    """Turns what fails for a fault of storage into an OSError that names a place; the rest goes through.

    Args:
        place: what is written; an OSError that names its own file keeps that.

    Raises:
        OSError: with its errno, and a filename.
    """
    try:
        yield
    except Exception as error:
        fault = storage_fault(error)
        if fault is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(fault, os.strerror(fault), str(place)) from error


@contextmanager
def within_reach(place: PurePath | str) -> Iterator[None]:
    """`naming_place`, which also tells of what is wrong with the way to a place; the rest goes through.

    Raises:
        OSError: a fault of storage.
        OutOfReachError: the place cannot be used from here at present.
    """
    try:
        with naming_place(place):
            yield
    except Exception as error:
        found = None if storage_fault(error) is not None else obstacle(error)
        if found is None or _is_of_the_device(found):
            raise
        why = " ".join(f"{type(found).__name__}: {found}".split())[:_TOLD_CHARACTERS]
        raise OutOfReachError(f"{place}: out of reach at present ({why}); repeat the same command") from error


def check_room(folder: PurePath, needed_bytes: int) -> None:
    """Raises OSError (ENOSPC) where the disk of a folder has less room than something will take."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def with_remedy(error: OSError) -> str:
    """What to tell of an OSError: place, fault and remedy where one is known."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}; {remedy}"


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path beside a file to write to: it takes the file's name when the block ends, and goes if it fails.

    So a reader, a kill or a full disk sees the old file or the whole new one; so does who looks after the
    machine went down, for it is on the disk before it has the name.

    Raises:
        OSError: a fault of storage, with the file's name.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}{_UNFINISHED}")
    with naming_place(file):
        try:
            yield unfinished
            reach_disk(unfinished)
            unfinished.replace(file)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def reach_disk(written: Path) -> None:
    """Returns when what was written to a file, or below a folder, is on the disk.

    Else its name may get there first, and be all that is left when the machine goes down.
    """
    for file in written.rglob("*") if written.is_dir() else [written]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_unfinished(file: PurePath) -> bool:
    """Whether a file is one that `whole_file` writes to, and so no part of what its folder holds."""
    return file.name.startswith(".") and file.name.endswith(_UNFINISHED)


def is_left_behind(unfinished: Path) -> bool:
    """Whether an unfinished file or folder is a killed process's; a young one may be one's that still writes.

    Raises:
        FileNotFoundError: it is finished, or was taken away.
    """
    return time.time() - unfinished.stat().st_mtime > _LEFT_BEHIND_SECONDS
