"""The memory that Linux would still give this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_KIB = 1024


class _Names(NamedTuple):
    """Where one version of control groups says what: its folder, and files in that of a group."""

    folder: str
    limit: str
    used: str
    reclaimable: str


# https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
_V1 = _Names("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("", "memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free, or would be for the asking; None where the system does not say, as on macOS.

    The least of what the machine has, swap included, and of what each control group that this process is in
    leaves it: a container's limit is one.

    Args:
        root: of the file system that tells.
    """
    of_machine = _lines(root / "proc/meminfo")
    if "MemAvailable:" not in of_machine:
        return None
    free = [(of_machine["MemAvailable:"] + of_machine.get("SwapFree:", 0)) * _KIB]
    return max(0, min([*free, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        names = {"": _V2, "memory": _V1}.get(controllers)
        if names is None:
            continue
        mounted = root / "sys/fs/cgroup" / names.folder
        # Inside a container the group may be named as the machine sees it; the container's own is at the top.
        for parent in (PurePosixPath(group), *PurePosixPath(group).parents):
            left = _left_by_group(mounted / str(parent).lstrip("/"), names)
            if left is not None:
                yield left


def _left_by_group(folder: Path, names: _Names) -> int | None:
    limit, used = _read(folder / names.limit).strip(), _read(folder / names.used).strip()
    if not (limit.isdecimal() and used.isdecimal()):  # no limit is `max`
        return None
    return int(limit) - int(used) + _lines(folder / "memory.stat").get(names.reclaimable, 0)


def _lines(file: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number on each line."""
    parts = (line.split() for line in _read(file).splitlines())
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
