"""How a program ends: one line and an exit code, and no peer left waiting.

Nothing here imports jax, so that bad input is refused at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from prorank_jax.storage_faults import OutOfReachError, TooLittleMemoryError, with_remedy

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_SIGTERM = 1, 2, 130, 143


class Interrupted(Exception):  # noqa: N818 - an order to stop is no error
    """A SIGTERM was obeyed: the state is saved and the run can be resumed."""


class AgreedError(ValueError):
    """What one process found wrong, raised by all of them: nobody is left waiting."""


class AgreedOutageError(AgreedError, OutOfReachError):
    """The same of a place that one process cannot reach at present."""


class AgreedFaultError(Exception):
    """A fault of the program in one process, raised by all of them: nobody is left waiting.

    In the process that has it, the fault is its cause.
    """


@contextmanager
def sigterm_interrupts(left: str) -> Iterator[None]:
    """SIGTERM raises `Interrupted`, so that what was half made is taken away as after Ctrl-C.

    Args:
        left: what is there then, for the message.
    """

    def stop(*_: object) -> None:
        raise Interrupted(f"stopped; {left}")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def end(error: BaseException, interrupted: str = "") -> int:
    """Says what stopped a program and gives its exit code.

    1 a place out of reach, which another try may mend; too little memory; or a fault of the program that
    processes told each other, with its traceback where it happened. 2 bad input; 130 interrupted; 143
    SIGTERM.

    A process whose peers know nothing of its error ends here, at once: an orderly end would wait for
    them, and they may be waiting for this process in a collective. The connection that breaks, or jax's
    coordination service, ends them too.

    Args:
        interrupted: what Ctrl-C left behind and how to go on.

    Raises:
        BaseException: the error itself, where it is none of these and there are no peers.
    """
    if isinstance(error, Interrupted):
        code, said = EXIT_SIGTERM, str(error)
    elif isinstance(error, ValueError | OSError):
        told = with_remedy(error) if isinstance(error, OSError) else str(error)
        code = EXIT_FAILED if isinstance(error, OutOfReachError) else EXIT_BAD_INPUT
        said = f"error: {' '.join(told.split())}"
    elif isinstance(error, TooLittleMemoryError):
        code, said = EXIT_FAILED, f"error: {error}"
    elif isinstance(error, AgreedFaultError):
        code, said = EXIT_FAILED, f"error: {error}" if error.__cause__ is None else _traceback(error)
    elif isinstance(error, KeyboardInterrupt):
        code, said = EXIT_INTERRUPTED, "; ".join(filter(None, ("interrupted", interrupted)))
    elif _has_peers() and isinstance(error, Exception):
        code, said = EXIT_FAILED, _traceback(error)
    else:
        raise error
    print(said, file=sys.stderr)
    if _has_peers() and not isinstance(error, Interrupted | AgreedError | AgreedFaultError):
        leave_at_once(code)
    return code


def leave_at_once(code: int) -> NoReturn:
    """Ends the process without Python's own way out, which may wait for threads, or crash in them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _has_peers() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
