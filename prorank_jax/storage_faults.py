"""Faults of storage, such as a full disk, told as one OSError: the place, what is wrong, what helps."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

_NOT_ALLOWED = "see whose it is and who may use it, or name another place"
REMEDIES = {
    errno.ENOSPC: "free space there, and repeat the same command",
    errno.EDQUOT: "free space there or ask for a larger quota, and repeat the same command",
    errno.EFBIG: "raise the limit of a file's size, and repeat the same command",
    errno.EROFS: "make it writable, or name another place",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EIO: "check the disk, and repeat the same command elsewhere if it fails again",
}
# As C++ and Rust libraries tell them, in the text of exceptions of their own.
_TOLD = {
    os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
}


def storage_fault(error: BaseException) -> int | None:
    """The errno of the fault of storage that an exception tells of; None if it tells of none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in REMEDIES:
            return seen.errno
        seen = seen.__cause__ or seen.__context__
    return next((code for text, code in _TOLD.items() if text in str(error)), None)


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
