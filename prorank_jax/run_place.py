"""Where a run lives: its folder on this machine, its checkpoints, and its copy at a URL if it has one.

With `output_dir` at a URL, checkpoints go there directly. The small files (config, metrics, probes, report,
tokenizer, TensorBoard) are written to a working folder under `$PRORANK_CACHE/runs`, fetched when a run
starts, and sent before each checkpoint. So the files at the URL are never older than its newest checkpoint,
and a machine made anew goes on without a line lost; lines after the checkpoint are cut off as ever.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from prorank_jax.config import RunConfig
from prorank_jax.lease import Lease, only_run_at
from prorank_jax.models.sources import cache_folder
from prorank_jax.processes import gather_texts, leads, succeed_together
from prorank_jax.remote_files import (
    check_bucket,
    fetch_folder,
    has_no_folders,
    open_url,
    send_file,
    url_slug,
    with_url_errors,
)
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    DATA_FOLDER,
    LEASE_FILE,
    MARKER,
    REPORT_FILE,
    check_same_run,
    only_run_in,
)
from prorank_jax.source_names import is_url
from prorank_jax.storage_faults import within_reach

WORKING_FOLDERS = "runs"
_LOOKS, _LOOK_SECONDS = 4, 0.5


def is_small_file(name: str) -> bool:
    """Whether a file of a run, by its relative name, goes with the run to a URL and back."""
    parts = name.split("/")
    return parts[0] not in (DATA_FOLDER, CHECKPOINTS_FOLDER, LEASE_FILE) and not any(
        p.startswith(".") for p in parts
    )


class Copy:
    """The copy of a working folder at a URL."""

    def __init__(self, folder: Path, remote: epath.Path, output_dir: str) -> None:
        self.remote = remote
        self._folder = folder
        self._output_dir = output_dir
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Makes the working folder's small files those of the URL."""
        with_url_errors(
            "output_dir",
            self._output_dir,
            lambda: fetch_folder(self.remote, self._folder, is_small_file),
            here=self._folder,
        )

    def send(self) -> None:
        """Sends the small files that changed since they were sent.

        Raises:
            OutOfReachError: the URL, which a run has used from its beginning, cannot be reached any more.
            ValueError: its storage is full or cannot be written to.
        """
        with_url_errors("output_dir", self._output_dir, self._send, worked_before=True)

    def remove(self, names: Sequence[str]) -> None:
        """Takes small files away at the URL.

        Raises:
            OutOfReachError, ValueError: as `send`.
        """

        def unlink() -> None:
            for name in names:
                (self.remote / name).unlink(missing_ok=True)
                self._sent.pop(name, None)

        with_url_errors("output_dir", self._output_dir, unlink, worked_before=True)

    def _send(self) -> None:
        # The report says that a run has ended, so it comes behind all else.
        for file in sorted(self._folder.rglob("*"), key=lambda file: (file.name == REPORT_FILE, file)):
            name = file.relative_to(self._folder).as_posix()
            if not is_small_file(name) or not file.is_file():
                continue
            state = file.stat()
            now = (state.st_size, state.st_mtime_ns)
            if self._sent.get(name) != now:
                send_file(file, self.remote / name)
                self._sent[name] = now


@dataclass(frozen=True)
class RunPlace:
    """The folders of an open run.

    Attributes:
        name: `output_dir` as it was given.
        folder: on this machine; all processes write examples there, the first one everything else.
        holder: what holds the folder `checkpoints`: `folder` itself, or the path of a URL.
        is_leaders: whether `folder` is the very folder of process 0.
    """

    name: str
    folder: Path
    holder: Path | epath.Path
    is_leaders: bool
    copy: Copy | None = None
    lease: Lease | None = None

    def send(self) -> None:
        """Brings the copy at the URL, if there is one, up to date; before a checkpoint, never after.

        Raises:
            ValueError: another run has taken the URL over, or its storage is full.
            OutOfReachError: the URL cannot be reached any more.
        """
        if self.lease is not None:
            self.lease.check()
        if self.copy is not None and leads():
            self.copy.send()

    def remove(self, names: Sequence[str]) -> None:
        """Takes small files away, here and at the URL; the first process calls it.

        Raises:
            ValueError, OutOfReachError: as `send`.
        """
        if self.lease is not None:
            self.lease.check()
        there = [name for name in names if (self.folder / name).is_file()]
        for name in there:
            (self.folder / name).unlink()
        if self.copy is not None and there:
            self.copy.remove(there)


@contextmanager
def open_place(config: RunConfig) -> Iterator[RunPlace]:
    """Opens the folders of a run for writing; every process calls it.

    Raises:
        ValueError: they hold another run, another process writes there, a URL cannot be reached, or the
            processes do not see the same local folder.
    """
    with ExitStack() as held:
        lease = None
        with succeed_together():
            folder, remote = _folders(config.output_dir)
            copy = None if remote is None else Copy(folder, remote, config.output_dir)
            if leads():
                _check_run(folder, remote, config)
                held.enter_context(only_run_in(folder))
                if copy is not None:
                    lease = held.enter_context(only_run_at(copy.remote, config.output_dir))
                    copy.fetch()
        is_leaders = _sees_leaders_folder(folder)
        with succeed_together():
            if not is_leaders and remote is None:
                raise ValueError(
                    f"output_dir={config.output_dir!r}: does not show the files of process 0; name a folder "
                    "that all processes share, or a URL such as gs://BUCKET/PATH"
                )
            folder.mkdir(parents=True, exist_ok=True)
        yield RunPlace(config.output_dir, folder, remote or folder, is_leaders, copy, lease)


def check_place(config: RunConfig) -> None:
    """Refuses what `open_place` would refuse of a run's folders; writes nothing there.

    Raises:
        ValueError: they hold another run, or a URL cannot be reached.
    """
    folder, remote = _folders(config.output_dir)
    _check_run(folder, remote, config)


def _check_run(folder: Path, remote: epath.Path | None, config: RunConfig) -> None:
    if remote is None:
        check_same_run(folder, config)
        return
    with within_reach(config.output_dir):  # another look at the bucket may fail where the first did not
        check_same_run(remote, config)


def _folders(output_dir: str) -> tuple[Path, epath.Path | None]:
    """The folder on this machine, and the path of the URL if it is one."""
    if not is_url(output_dir):
        return Path(output_dir), None
    remote = open_url("output_dir", output_dir)
    if has_no_folders(remote):
        check_bucket("output_dir", output_dir)
    return cache_folder() / WORKING_FOLDERS / url_slug(output_dir), remote


def _sees_leaders_folder(folder: Path) -> bool:
    """Whether a file that process 0 makes shows up in this process's folder of that name."""
    name = gather_texts(secrets.token_hex(8))[0]
    marker = folder / f"{MARKER}{name}"
    with succeed_together():
        if leads():
            marker.touch()
    seen = marker.exists()
    for _ in range(_LOOKS):  # a network file system may show it late
        if seen:
            break
        time.sleep(_LOOK_SECONDS)
        seen = marker.exists()
    gather_texts("")
    if leads():
        marker.unlink(missing_ok=True)
    return seen
