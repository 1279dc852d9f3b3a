"""A full disk is told in one sentence, whoever finds it. /dev/full is one that never has room."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
import urllib.error
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest
import requests
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

import prorank_jax.metrics_log
from prorank_jax.command_line import run_command
from prorank_jax.evaluation.score_log import QueryScores, ScoreLog
from prorank_jax.metrics_log import BOARD_FOLDER, METRICS_FILE, MetricsLog, read_lines
from prorank_jax.run_folder import append_lines, write_atomically
from prorank_jax.storage_faults import (
    REMEDIES,
    OutOfReachError,
    UnfetchedError,
    check_room,
    is_outage,
    naming_place,
    obstacle,
    refusal_of,
    storage_fault,
    with_remedy,
    within_reach,
)
from tests.cpu.disk_order import DiskOrder

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="no /dev/full here")


@pytest.mark.parametrize("code", REMEDIES)
def test_every_known_fault_is_one_line_with_its_place_and_remedy(code, capsys):
    def fail() -> None:
        with naming_place("/runs/a"):
            raise OSError(code, os.strerror(code))

    assert run_command(fail) == 2
    assert capsys.readouterr().err == f"error: /runs/a: {os.strerror(code)}; {REMEDIES[code]}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("write() failed: No space left on device; writing x"), errno.ENOSPC),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 28),
        (ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded [os_error_code='122']"), errno.EDQUOT),
        (OSError(errno.EROFS, "Read-only file system", "file"), errno.EROFS),
        (OSError(errno.ENOENT, "No such file or directory", "file"), None),
        (ValueError("batch_size=3: must be even"), None),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes"), None),
    ],
)
def test_faults_are_found_in_the_words_of_other_libraries(error, code):
    assert storage_fault(error) == code
    outer = RuntimeError("could not save")
    outer.__cause__ = error
    assert storage_fault(outer) == (code if isinstance(error, OSError) else None)


def test_a_place_that_is_known_is_kept_and_other_errors_go_through():
    with pytest.raises(OSError, match="inner") as caught, naming_place("outer"):
        raise OSError(errno.ENOSPC, "full", "inner")
    assert caught.value.filename == "inner"
    with pytest.raises(KeyError), naming_place("outer"):
        raise KeyError("x")
    assert with_remedy(FileNotFoundError(errno.ENOENT, "no such file", "f")) == "[Errno 2] no such file: 'f'"


class AskedTooOften(Exception):  # noqa: N818 - as a client of buckets names its own
    __module__ = "gcsfs.retry"


OBSTACLES = [
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("no answer"),
    OSError("Forbidden: bucket/run/checkpoints/8"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
    AskedTooOften("429"),
    MemoryError(),
    ValueError('UNAVAILABLE: Error opening "zarr" driver: Error reading "gs://b/run/checkpoints/8"'),
    ValueError("DEADLINE_EXCEEDED: Error reading"),
    ValueError("PERMISSION_DENIED: Error reading"),
    ValueError("UNAUTHENTICATED: Error reading"),
    ValueError("ABORTED: All 32 retry attempts failed"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes"),
]
DAMAGES = [
    FileNotFoundError("File 8/iterator/metadata not found."),
    NotADirectoryError(errno.ENOTDIR, "Not a directory"),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("UNKNOWN: Error reading local file: Input/output error"),
    ValueError("NOT_FOUND: Error reading local file"),
    ValueError("DATA_LOSS: Error decoding manifest"),
    ValueError("OUT_OF_RANGE: Requested byte range [0, 9) is not valid for value of size 4"),
    ValueError("FAILED_PRECONDITION: Truncated Zstd-compressed stream"),
    ValueError("the array UNAVAILABLE: is not what was saved"),
    KeyError("chunk_shape"),
    UnicodeDecodeError("utf-8", b"\xef", 0, 1, "invalid continuation byte"),
]


@pytest.mark.parametrize("error", OBSTACLES, ids=repr)
def test_what_says_nothing_of_a_file_is_an_obstacle(error):
    assert obstacle(error) is error
    outer = Exception("Encountered error while reading array index")
    outer.__cause__ = error
    assert obstacle(outer) is error


@pytest.mark.parametrize("error", DAMAGES, ids=repr)
def test_what_is_wrong_with_a_file_is_no_obstacle(error):
    assert obstacle(error) is None
    with pytest.raises((OSError, ValueError, KeyError)) as caught, within_reach("/runs/a"):
        raise error
    assert not isinstance(caught.value, OutOfReachError)


def test_a_place_out_of_reach_is_one_line_and_no_bad_input(capsys):
    def fail() -> None:
        with within_reach("gs://b/run"):
            raise ValueError("UNAVAILABLE: no route\nto host")

    assert run_command(fail) == 1
    said = "gs://b/run: out of reach at present (ValueError: UNAVAILABLE: no route to host)"
    assert capsys.readouterr().err == f"error: {said}; repeat the same command\n"


def test_a_full_disk_and_a_full_memory_keep_their_own_words():
    with pytest.raises(OSError, match="No space left") as caught, within_reach("/runs/a"):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
    assert caught.value.filename == "/runs/a"
    with pytest.raises(MemoryError), within_reach("/runs/a"):
        raise MemoryError


def test_room_is_looked_for(tmp_path):
    check_room(tmp_path, 1)
    with pytest.raises(OSError, match="No space left") as caught:
        check_room(tmp_path, 1 << 62)
    assert caught.value.filename == str(tmp_path)


@needs_full
def test_a_line_that_does_not_fit_names_its_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught:
        append_lines(FULL, "line\n")
    assert caught.value.filename == str(FULL)
    (tmp_path / METRICS_FILE).symlink_to(FULL)
    log = MetricsLog(tmp_path, 0)
    with pytest.raises(OSError, match="No space left") as caught:
        log.write(1, {"reward": 1.0})
    assert caught.value.filename == str(tmp_path / METRICS_FILE)
    log.close()


@needs_full
def test_a_full_disk_under_tensorboard_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    """Its own writer would wait for room in the queue of a thread that has died."""
    monkeypatch.setattr(prorank_jax.metrics_log.time, "time", lambda: 1234567890.0)
    log = MetricsLog(tmp_path, 0)
    (name,) = [path.name for path in (tmp_path / BOARD_FOLDER).iterdir()]
    log.close()
    (tmp_path / BOARD_FOLDER / name).unlink()
    (tmp_path / BOARD_FOLDER / name).symlink_to(FULL)
    failures: list[OSError] = []

    def write() -> None:
        try:
            MetricsLog(tmp_path, 0)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert failures[0].filename == str(tmp_path / BOARD_FOLDER)


def test_tensorboard_has_what_the_lines_have(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    for done, until in ((0, 3), (2, 4)):
        log = MetricsLog(tmp_path, done)
        for step in range(done + 1, until + 1):
            log.write(step, {"reward": step / 8, "loss": -step})
        log.close()
        time.sleep(0.01)
    files = sorted((tmp_path / BOARD_FOLDER).iterdir())
    assert len(files) == 2  # the second did not write over the first
    events = [Event.FromString(record) for file in files for record in _records(file)]
    shown: dict[int, dict[str, float]] = {}
    for event in events:
        if event.HasField("session_log"):
            shown = {step: values for step, values in shown.items() if step < event.step}
        if event.HasField("summary"):
            shown[event.step] = {value.tag: value.simple_value for value in event.summary.value}
    lines = read_lines(tmp_path / METRICS_FILE)
    assert shown == {r["step"]: {"reward": r["reward"], "loss": r["loss"]} for r in lines}
    assert sorted(shown) == [1, 2, 3, 4]


def _records(file: Path) -> list[bytes]:
    """TFRecord: length (8 bytes), checksum (4), content, checksum (4)."""
    content, records = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        records.append(content[12 : 12 + length])
        content = content[16 + length :]
    return records


@needs_full
def test_scores_that_do_not_fit_are_not_taken_for_done(tmp_path):
    (tmp_path / "scores.jsonl").symlink_to(FULL)
    log = ScoreLog(tmp_path / "scores.jsonl", {})
    with pytest.raises(OSError, match="No space left"):
        log.add({"q": QueryScores(("d",), (1.0,), 0.1)})
    assert not log.done


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "report.json"
    write_atomically(file, b"old")
    original = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        original(path, content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(file, b"new and longer")
    assert caught.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert file.read_bytes() == b"old"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = DiskOrder(monkeypatch)
    write_atomically(tmp_path / "report.json", b"content")
    assert (order.named, order.too_early) == (1, [])


def client_error(module: str, name: str, *bases: type, **told: object) -> Exception:
    """As a client that is not installed here names its own, which a machine with the extra `gcs` has."""
    kind = type(name, bases or (Exception,), {"__module__": module})
    error = kind(name)
    vars(error).update(told)
    return error


def answered(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


def refused_by_hub(status: int) -> HfHubHTTPError:
    return HfHubHTTPError(str(status), response=httpx2.Response(status, request=ASKED))


ASKED = httpx2.Request("GET", "https://huggingface.co/api/models/a/b")
AIOHTTP_CONNECTION = type("ClientConnectionError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
OUTAGES = [
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    socket.gaierror(socket.EAI_AGAIN, "no such name at present"),
    TimeoutError(),
    OSError(errno.ENETUNREACH, "unreachable"),
    *(requests.HTTPError(str(status), response=answered(status)) for status in (408, 429, 500, 503)),
    requests.ConnectionError("Remote end closed connection without response"),
    requests.exceptions.ProxyError(),  # as gcsfs tells of 502
    requests.exceptions.SSLError("UNEXPECTED_EOF_WHILE_READING"),
    requests.exceptions.ChunkedEncodingError("IncompleteRead"),
    requests.ConnectTimeout("timed out"),
    requests.ReadTimeout("timed out"),
    *map(refused_by_hub, (408, 429, 502, 504)),
    httpx2.ConnectError("no route"),
    httpx2.ReadTimeout("timed out"),
    httpx2.RemoteProtocolError("Server disconnected without sending a response."),
    httpx2.ProxyError("502"),
    urllib.error.HTTPError("https://x", 503, "busy", Message(), None),
    *(client_error("gcsfs.retry", "HttpError", code=code) for code in (408, 429, 500, 503, "503")),
    client_error("aiohttp.client_exceptions", "ClientResponseError", status=429),
    client_error("aiohttp.client_exceptions", "ServerDisconnectedError", AIOHTTP_CONNECTION),
    client_error("aiohttp.client_exceptions", "ClientPayloadError"),
    client_error("google.api_core.exceptions", "ServiceUnavailable", code=HTTPStatus.SERVICE_UNAVAILABLE),
    client_error("google.auth.exceptions", "TransportError"),
]
UNTRUSTED = requests.exceptions.SSLError("certificate verify failed")
UNTRUSTED.__cause__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
REFUSALS = [
    *(requests.HTTPError(str(status), response=answered(status)) for status in (400, 401, 403, 404, 412)),
    requests.HTTPError("of no answer"),
    requests.exceptions.InvalidURL("no host"),
    requests.exceptions.MissingSchema("no scheme"),
    requests.TooManyRedirects("31"),
    UNTRUSTED,
    *map(refused_by_hub, (401, 403, 404)),
    httpx2.UnsupportedProtocol("ftp"),
    httpx2.LocalProtocolError("a header with a line end"),
    urllib.error.HTTPError("https://x", 404, "not there", Message(), None),
    *(client_error("gcsfs.retry", "HttpError", code=code) for code in (400, 401, 403, 404, None, "403", "")),
    client_error("aiohttp.client_exceptions", "ClientResponseError", status=403),
    client_error("aiohttp.client_exceptions", "InvalidURL", ValueError),
    client_error("google.api_core.exceptions", "Forbidden", code=HTTPStatus.FORBIDDEN),
    client_error("google.auth.exceptions", "DefaultCredentialsError"),
    client_error("of.no.network", "ConnectionError"),
    client_error("of.no.network", "ParseError", code=3),
    client_error("of.no.network", "Strange", code=lambda: 503, status=None),
    OSError("Forbidden: b/o"),  # as gcsfs tells of 403
    FileNotFoundError(errno.ENOENT, "no such file"),
    ValueError("Bad Request: b/o"),
    ValueError("stage=3"),
]


@pytest.mark.parametrize(
    ("error", "tells"), [(e, True) for e in OUTAGES] + [(e, False) for e in REFUSALS], ids=repr
)
def test_what_tells_of_the_network_is_an_outage(error, tells):
    assert is_outage(error) == tells
    assert refusal_of(KeyError(), error) is (UnfetchedError if tells else ValueError)
    outer = ValueError("cannot be had")
    outer.__cause__ = error
    assert is_outage(outer) == tells


def with_their_clients() -> list[tuple[Exception, bool]]:
    """Of the real clients of buckets, where they are installed."""
    retry = pytest.importorskip("gcsfs.retry")
    aiohttp = pytest.importorskip("aiohttp")
    google = pytest.importorskip("google.api_core.exceptions")
    key = Mock(ssl=True, host="storage.googleapis.com", port=443)
    return [
        *((retry.HttpError({"code": code, "message": "told"}), True) for code in (408, 429, 500, 503)),
        *((retry.HttpError({"code": code, "message": "told"}), False) for code in (400, 401, 403)),
        (aiohttp.ClientConnectorError(key, OSError(errno.ECONNREFUSED, "refused")), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ServerTimeoutError(), True),
        (aiohttp.ClientPayloadError("cut off"), True),
        (aiohttp.ClientResponseError(Mock(), (), status=429), True),
        (aiohttp.ClientResponseError(Mock(), (), status=403), False),
        (aiohttp.InvalidURL("x"), False),
        (google.ServiceUnavailable("busy"), True),
        (google.TooManyRequests("busy"), True),
        (google.Forbidden("no"), False),
        (google.NotFound("no"), False),
    ]


def test_the_clients_of_buckets_tell_of_outages_as_their_stand_ins_do():
    for error, tells in with_their_clients():
        assert is_outage(error) == tells, repr(error)


def test_what_could_not_be_fetched_may_be_there_at_the_next_try(capsys):
    def fail() -> None:
        raise UnfetchedError("model.source='a/b': the hub did not give it")

    assert run_command(fail) == 1
    assert capsys.readouterr().err == "error: model.source='a/b': the hub did not give it\n"
