"""One thread that owns the model: what the event loop hands it is done in order."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class OneThread:
    """Runs functions one after another on a thread of its own.

    The thread is a daemon: a computation that never ends cannot keep the process from leaving, as it
    would with `concurrent.futures`.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Kept by no loop: a task holds its arguments and its result, which may be large, until the next."""
        task = self._work.get()
        if task is not None:
            task()
        return task is not None

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `function(*arguments)`, computed on the thread; its exception is raised here."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def task() -> None:
            result: Result | None = None
            error: BaseException | None = None
            try:
                result = function(*arguments)
            except BaseException as raised:  # whatever it is, the one who waits must hear of it
                error = raised if _fits_a_future(raised) else _stand_in(raised)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self._work.put(task)
        return await future

    def stop(self, timeout_s: float) -> bool:
        """Lets the thread end after what it was handed; whether it has ended in time."""
        self._work.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _stand_in(raised: BaseException) -> RuntimeError:
    error = RuntimeError(repr(raised))
    error.__cause__ = raised  # a log shows where it happened
    return error


def _fits_a_future(error: BaseException) -> bool:
    """No future carries StopIteration, and what is no Exception, such as SystemExit, would end the loop."""
    return isinstance(error, Exception) and not isinstance(error, StopIteration)
