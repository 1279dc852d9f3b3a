"""Two runs at one remote folder: the second is refused, unless the first is dead."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from etils import epath

import prorank_jax.lease as lease_module
from prorank_jax import living
from prorank_jax.lease import only_run_at
from prorank_jax.living import this_process
from prorank_jax.run_folder import LEASE_FILE
from tests.cpu.test_living import DEAD, needs_linux


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "WATCH_SECONDS", 2.0)
    monkeypatch.setattr(lease_module, "_LOOK_SECONDS", 0.05)


def test_a_living_run_keeps_others_out_and_clears_up(tmp_path):
    folder = epath.Path(tmp_path / "run")
    with only_run_at(folder, "gs://b/run"):
        with (
            pytest.raises(
                ValueError, match=r"output_dir='gs://b/run': another run is writing there \(process"
            ),
            only_run_at(folder, "gs://b/run"),
        ):
            pass
        assert (folder / LEASE_FILE).exists()
    assert not (folder / LEASE_FILE).exists()
    with only_run_at(folder, "gs://b/run"):
        pass


def test_what_a_dead_run_left_is_taken_over(tmp_path):
    file = tmp_path / LEASE_FILE
    file.write_text(json.dumps({"holder": "x", "host": "elsewhere", "pid": 1, "renewals": 7}))
    began = time.monotonic()
    with only_run_at(epath.Path(tmp_path), "gs://b/run"):
        assert time.monotonic() - began >= 2.0
        assert json.loads(file.read_text())["holder"] != "x"


def seconds_until_taken_over(folder: Path, content: dict[str, object]) -> float:
    (folder / LEASE_FILE).write_text(json.dumps({"holder": "x", "renewals": 0} | content))
    began = time.monotonic()
    with only_run_at(epath.Path(folder), "gs://b/run"):
        return time.monotonic() - began


@needs_linux
def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "WATCH_SECONDS", 60.0)
    assert seconds_until_taken_over(tmp_path, this_process() | {"pid": DEAD}) < 30


ELSEWHERE = {
    "a container's own numbers": {"pid_namespace": "pid:[1]"},
    "a clone with the same name": {"boot": "00000000-0000-0000-0000-000000000000"},
    "another host": {"host": "elsewhere"},
    "a lease of an older version": {"pid_namespace": None, "boot": None},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_number_that_means_another_process_tells_nothing(name, tmp_path):
    content = this_process() | {"pid": DEAD} | ELSEWHERE[name]
    told = {key: value for key, value in content.items() if value is not None}
    assert seconds_until_taken_over(tmp_path, told) >= 2.0


def test_where_the_system_does_not_tell_its_machine_nobody_is_dead_here(tmp_path, monkeypatch):
    monkeypatch.setattr(living, "_PID_NAMESPACE", tmp_path / "none")
    assert seconds_until_taken_over(tmp_path, this_process() | {"pid": DEAD}) >= 2.0


def test_a_reader_never_sees_half_a_lease(tmp_path):
    """What is open stays as it was: a renewal is another file of that name."""
    file = tmp_path / LEASE_FILE
    with only_run_at(epath.Path(tmp_path), "gs://b/run"), file.open() as opened:
        number = file.stat().st_ino
        end = time.monotonic() + 20
        while file.stat().st_ino == number and time.monotonic() < end:
            time.sleep(0.05)
        assert json.loads(file.read_text())["renewals"] > json.loads(opened.read())["renewals"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_lease_that_stays_torn_is_taken_over(content, tmp_path):
    (tmp_path / LEASE_FILE).write_text(content)
    began = time.monotonic()
    with only_run_at(epath.Path(tmp_path), "gs://b/run"):
        assert time.monotonic() - began >= 2.0


def test_a_lease_that_is_torn_while_it_is_watched_is_held(tmp_path, monkeypatch):
    """A bucket's client may cut off what has grown since it listed it."""
    lease = {"holder": "x", "pid": 5, "host": "h"}
    told = [lease | {"renewals": 9}, {}, lease | {"renewals": 10}]
    monkeypatch.setattr(lease_module, "_read", lambda _: told.pop(0))
    with (
        pytest.raises(ValueError, match=r"another run is writing there \(process 5 on h\)"),
        only_run_at(epath.Path(tmp_path), "x"),
    ):
        pass


def test_a_dead_lease_that_is_first_read_torn_keeps_nobody_out(tmp_path, monkeypatch):
    told = [{}]
    monkeypatch.setattr(lease_module, "_read", lambda _: told.pop(0) if told else {"holder": "x", "pid": 5})
    with only_run_at(epath.Path(tmp_path), "gs://b/run"):
        pass


def test_a_run_that_lost_its_folder_is_told(tmp_path):
    with only_run_at(epath.Path(tmp_path), "gs://b/run") as lease:
        lease.check()
        (tmp_path / LEASE_FILE).write_text(json.dumps({"holder": "another"}))
        end = time.monotonic() + 20
        while not lease.is_lost and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(ValueError, match="another run has begun to write there"):
            lease.check()
    assert json.loads((tmp_path / LEASE_FILE).read_text())["holder"] == "another"
