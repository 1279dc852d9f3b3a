"""A tensor that lies in a file: what it is called, its shape, and how to read it when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a weight file; nothing is read before `read` is called.

    Attributes:
        file: the file it lies in.
        shape: as stored: [out, in] for a matrix.
        read: gives the tensor, of `shape`, in a type that casts to float32. It may be a view of the
            file: copy from it and let it go.
    """

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def check_extents(file: Path, extents: Iterable[tuple[int, int, str]], limit: int, *, gaps: bool) -> None:
    """Checks that (begin, end, name) ranges stay below `limit` and do not overlap.

    Args:
        file: named in errors.
        extents: byte ranges in any order, from the start of the tensor data.
        limit: bytes of tensor data that the file really has.
        gaps: whether unused bytes between two tensors or after the last are allowed.

    Raises:
        ValueError: a range beyond the file, two that overlap, or a gap where none may be.
    """
    reached, before = 0, "the header"
    for begin, end, name in sorted(extents):
        if end > limit:
            raise ValueError(
                f"{file}: tensor {name!r} ends at byte {end} of its data, but the file has only {limit}; "
                "it was cut off or is damaged: fetch it again"
            )
        if begin < reached:
            raise ValueError(f"{file}: tensor {name!r} overlaps {before}; the file is damaged")
        if begin > reached and not gaps:
            raise ValueError(f"{file}: bytes {reached} to {begin} belong to no tensor; the file is damaged")
        reached, before = end, repr(name)
    if reached != limit and not gaps:
        raise ValueError(f"{file}: {limit - reached} bytes after the last tensor; the file is damaged")
