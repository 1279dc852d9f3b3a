"""Keeps two runs out of one remote folder: a file there that its holder renews.

A bucket has no locks, but a holder that lives shows it: the file changes. Nobody's clock is compared. A
run that was killed leaves its file behind; the next run watches it for a while, sees no change, and takes
over. Two runs that start in the same second may still both get through; the loser sees it when it renews.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from etils import epath

from prorank_jax.living import is_dead_here, this_process
from prorank_jax.remote_files import forget_listings, has_no_folders, with_url_errors, write_whole
from prorank_jax.run_folder import LEASE_FILE

RENEW_SECONDS = 10.0
WATCH_SECONDS = 35.0
_LOOK_SECONDS = 1.0


class Lease:
    """The holder's side: renews the file in the background until it is released.

    Attributes:
        is_lost: whether another run has taken the folder over.
    """

    def __init__(self, file: epath.Path, output_dir: str) -> None:
        self._file = file
        self._output_dir = output_dir
        self._holder = secrets.token_hex(8)
        self._renewals = 0
        self.is_lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def start(self) -> None:
        """Takes the lease, and renews it from now on."""
        with_url_errors("output_dir", self._output_dir, self._write)
        self._thread.start()

    def check(self) -> None:
        """Raises a ValueError when another run has taken the folder over."""
        if self.is_lost:
            raise ValueError(f"output_dir={self._output_dir!r}: another run has begun to write there")

    def release(self) -> None:
        """Stops renewing, and takes the file away if it is still ours."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=RENEW_SECONDS)
        if not self.is_lost:
            with suppress(Exception):  # nobody is hurt by a file that stays: the next run waits for a while
                self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {"holder": self._holder, "renewals": self._renewals, **this_process()}
        write_whole(self._file, json.dumps(content).encode())
        self._renewals += 1

    def _keep_renewing(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            with suppress(Exception):  # a bucket that does not answer now may answer the next time
                if (_read(self._file) or {}).get("holder", self._holder) != self._holder:
                    self.is_lost = True
                    return
                self._write()


def _read(file: epath.Path) -> dict[str, object] | None:
    """The lease; empty where it cannot be read, None where there is none."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _read_anew(file: epath.Path) -> dict[str, object] | None:
    """`_read`, not in the length that a bucket's client once listed: a lease that grew would be cut off."""
    forget_listings(file)
    return _read(file)


def _refuse_while_held(file: epath.Path, output_dir: str) -> None:
    """Watches a lease that is there until it is clear whether its holder lives."""
    seen = with_url_errors("output_dir", output_dir, lambda: _read_anew(file))
    end = time.monotonic() + WATCH_SECONDS
    while seen is not None and not is_dead_here(seen) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        now = with_url_errors("output_dir", output_dir, lambda: _read_anew(file))
        if now is None:
            return
        if seen and now and now != seen:
            raise ValueError(
                f"output_dir={output_dir!r}: another run is writing there (process {now.get('pid')} on "
                f"{now.get('host')}); wait for it or name another"
            )
        seen = seen or now


@contextmanager
def only_run_at(folder: epath.Path, output_dir: str) -> Iterator[Lease]:
    """Holds a remote folder for this run.

    Args:
        folder: that the URL `output_dir` names.

    Raises:
        ValueError: another run holds it, or it cannot be written to.
    """
    if not has_no_folders(folder):
        with_url_errors("output_dir", output_dir, lambda: folder.mkdir(parents=True, exist_ok=True))
    file = folder / LEASE_FILE
    _refuse_while_held(file, output_dir)
    lease = Lease(file, output_dir)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()
