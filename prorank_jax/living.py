"""Which process of which machine wrote something, and whether that process is certainly no more."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Linux: drawn anew at each start of the machine; the processes that are numbered together.
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> dict[str, object]:
    """What tells this process from others, as JSON values."""
    return {"pid": os.getpid(), **_where()}


def is_dead_here(process: Mapping[str, object]) -> bool:
    """Whether a process, as `this_process` tells it, was certainly one of this machine and is no more."""
    return _lives_here(process) is False


def may_be_elsewhere(process: Mapping[str, object]) -> bool:
    """Whether this machine cannot tell if a process lives."""
    return _lives_here(process) is None


def _lives_here(process: Mapping[str, object]) -> bool | None:
    """None: it is not certainly one of this machine."""
    pid, here = process.get("pid"), _where()
    if None in here.values() or any(process.get(name) != value for name, value in here.items()):
        return None
    if not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _where() -> dict[str, object]:
    """The machine, and what its process numbers are numbers of; None where the system does not tell.

    A host's name alone is shared by cloned machines, and by containers that number processes on their own.
    """
    boot = pid_namespace = None
    with suppress(OSError):
        boot = _BOOT_FILE.read_text().strip()
        pid_namespace = str(_PID_NAMESPACE.readlink())
    return {"host": socket.gethostname(), "boot": boot, "pid_namespace": pid_namespace}
