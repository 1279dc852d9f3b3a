"""Several processes of one run: who leads, what all must agree on, and how a failure reaches everybody.

Alone, a process agrees with itself: then nothing here waits or computes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from prorank_jax import __version__
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_to_dict, flatten
from prorank_jax.launching import AgreedError, AgreedFaultError, AgreedOutageError
from prorank_jax.machine import COORDINATOR, PROCESS, PROCESSES
from prorank_jax.storage_faults import OutOfReachError, with_remedy

# One process may build examples for long while the others wait for it.
PATIENCE_SECONDS = 2 * 3600
# As libtpu reads it: the four chips of a worker, and no other worker to wait for.
OWN_CHIPS_ONLY = "TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_VISIBLE_CHIPS=0,1,2,3"
_TOLD_CHARACTERS = 2000
_BAD_INPUT, _OUTAGE, _FAULT = "bad input", "outage", "fault"
_AGREED = {_BAD_INPUT: AgreedError, _OUTAGE: AgreedOutageError, _FAULT: AgreedFaultError}
_meetings = itertools.count()


def leads() -> bool:
    """Whether this process writes what all share: config, metrics, reports."""
    return jax.process_index() == 0


def has_peers() -> bool:
    """Whether this process is one of several.

    Raises:
        ValueError: jax sees several, as on the workers of a TPU pod, but they have not met.
    """
    count = jax.process_count()
    if count > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"jax sees {count} processes, which have not met; to train, start them with "
            f"launch/tpu_pod.sh, or for each set {COORDINATOR}=HOST:PORT of process 0, {PROCESSES}={count} "
            f"and {PROCESS} (from 0); for anything else, run one of them, with {OWN_CHIPS_ONLY}"
        )
    return count > 1


def gather_texts(text: str) -> list[str]:
    """What each process says, in their order; every process must call it, at the same place.

    Waits where waiting is safe, in jax's coordination service: a device that waits in a collective for a
    process that is late would give up.

    Raises:
        ValueError: there are several processes that have not met.
    """
    if not has_peers():
        return [text]
    said = text.encode("utf-8")
    _meet()
    lengths = multihost_utils.process_allgather(np.array([len(said)], np.int32)).reshape(-1)
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode("utf-8") for row, length in zip(rows, lengths, strict=True)]


def _meet() -> None:
    """Returns when every process has come here."""
    # `sync_global_processes` would wait in a collective of the devices, which has a patience of its own.
    wait_at_barrier = multihost.get_barrier_sync_fn()
    wait_at_barrier(key=f"prorank_gather_{next(_meetings)}", timeout_ms=PATIENCE_SECONDS * 1000)


@contextmanager
def succeed_together() -> Iterator[None]:
    """Leaves the block only when every process has come through it; else an error on every process.

    What is inside must not wait for other processes itself.

    Raises:
        AgreedError: with several processes, the error of the first that failed; an `AgreedOutageError`
            where that was a place out of reach.
        AgreedFaultError: that of the first in which the program failed, whatever others met.
        ValueError: there are several processes that have not met.
    """
    if not has_peers():
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    said = "" if failure is None else json.dumps([_kind(failure), _told(failure)])
    failures = [(index, *json.loads(text)) for index, text in enumerate(gather_texts(said)) if text]
    if failures:
        index, kind, text = next((one for one in failures if one[1] == _FAULT), failures[0])
        # All usually fail alike; then it is of no interest which one speaks.
        all_alike = [of for _, of, _ in failures] == [kind] * jax.process_count()
        where = "" if all_alike else f"process {index} of {jax.process_count()}: "
        raise _AGREED[kind](where + text) from failure


def _kind(error: Exception) -> str:
    if isinstance(error, OutOfReachError):
        return _OUTAGE
    return _BAD_INPUT if isinstance(error, ValueError | OSError) else _FAULT


def _told(error: Exception) -> str:
    text = with_remedy(error) if isinstance(error, OSError) else str(error)
    name = f"{type(error).__name__}: " if _kind(error) == _FAULT or not text else ""
    return (name + text)[:_TOLD_CHARACTERS]


def check_equal(what: str, facts: Mapping[str, str], remedy: str) -> None:
    """Refuses to go on where the processes do not have equal facts.

    Args:
        what: kind of the facts, for the message.
        facts: name and value; the names must be the same everywhere.

    Raises:
        AgreedError: on every process, with the facts that differ.
    """
    everyone = [json.loads(text) for text in gather_texts(json.dumps(facts))]
    for index, theirs in enumerate(everyone):
        first = everyone[0]
        differing = [name for name in sorted(first | theirs) if first.get(name) != theirs.get(name)]
        if differing:
            changes = ", ".join(
                f"{name} is {first.get(name)} on process 0, {theirs.get(name)} on process {index}"
                for name in differing
            )
            raise AgreedError(f"{what}: the processes do not agree ({changes}); {remedy}")


def code_digest() -> str:
    """A hash of this package's source files: equal for two processes that run the same code."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def check_same_job(config: RunConfig) -> None:
    """Refuses to start when another process has another config or another version of the code.

    Raises:
        ValueError: names what differs, on every process; or the processes have not met.
    """
    if not has_peers():
        return
    settings = {name: repr(value) for name, value in flatten(config_to_dict(config)).items()}
    check_equal("config", settings, "start every process with the same command")
    versions = {"prorank_jax": f"{__version__} ({code_digest()})", "jax": jax.__version__}
    check_equal("code", versions, "install the same version everywhere")
