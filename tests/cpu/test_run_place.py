"""A run at a URL: what is refused at its beginning, and what only fails in its midst."""

from __future__ import annotations

import errno
import re
from unittest.mock import Mock

import pytest
import requests
from etils import epath

from prorank_jax import run_place
from prorank_jax.command_line import run_command
from prorank_jax.config import RunConfig
from prorank_jax.run_folder import LEASE_FILE
from prorank_jax.run_place import check_place, open_place


@pytest.fixture
def config(tmp_path, monkeypatch) -> RunConfig:
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    return RunConfig(output_dir=f"file://{tmp_path}/bucket/run")


def send_a_file(config: RunConfig) -> None:
    with open_place(config) as place:
        (place.folder / "metrics.jsonl").write_text("{}\n")
        place.send()


def test_what_is_sent_is_there_and_the_lease_is_not(config, tmp_path):
    assert run_command(lambda: send_a_file(config)) == 0
    assert [path.name for path in (tmp_path / "bucket" / "run").iterdir()] == ["metrics.jsonl"]


def test_what_is_removed_is_gone_here_and_there(config, tmp_path):
    def write_and_remove() -> None:
        with open_place(config) as place:
            for _ in range(2):
                (place.folder / "report.json").write_text("{}\n")
                place.send()
                assert (tmp_path / "bucket" / "run" / "report.json").is_file()
                place.remove(["report.json", "report.html"])
                assert not (place.folder / "report.json").exists()
                place.send()

    assert run_command(write_and_remove) == 0
    assert list((tmp_path / "bucket" / "run").iterdir()) == []


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("step", "error", "code", "message"),
    [
        ("send_file", RuntimeError("503"), 1, r"cannot be reached any more \(RuntimeError: 503\)"),
        ("send_file", ConnectionResetError("reset"), 1, "any more"),
        ("send_file", FULL, 2, "No space left"),
        ("fetch_folder", RuntimeError("503"), 2, "check the name, the network"),
    ],
)
def test_an_outage_in_the_midst_is_a_failure_and_one_at_the_beginning_bad_input(
    step, error, code, message, config, capsys, monkeypatch
):
    monkeypatch.setattr(f"prorank_jax.run_place.{step}", Mock(side_effect=error))
    assert run_command(lambda: send_a_file(config)) == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: output_dir='{config.output_dir}': ")
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


def test_the_report_is_sent_last(config, monkeypatch):
    """It says that its run has ended: a kill in between must not leave it without what it tells of."""
    sent = []
    monkeypatch.setattr(run_place, "send_file", lambda file, _: sent.append(file.name))
    with open_place(config) as place:
        for name in ("report.png", "report.json", "config.yaml", "probes.jsonl"):
            (place.folder / name).write_text("{}")
        place.send()
    assert sent[-1] == "report.json"
    assert sorted(sent[:-1]) == ["config.yaml", "probes.jsonl", "report.png"]


def test_a_run_that_lost_its_lease_takes_nothing_away(config):
    with open_place(config) as place:
        (place.folder / "report.json").write_text("{}")
        place.lease.is_lost = True
        with pytest.raises(ValueError, match="another run has begun to write there"):
            place.remove(["report.json"])
        assert (place.folder / "report.json").is_file()


def test_a_bucket_is_asked_for_before_anything_is_written(config, tmp_path, monkeypatch):
    asked = Mock(side_effect=ValueError("lacks storage.buckets.get"))
    monkeypatch.setattr(run_place, "check_bucket", asked)
    with open_place(config):  # at a file:// URL nobody is
        pass
    asked.assert_not_called()
    before = sorted(tmp_path.rglob("*"))
    url = "gs://bucket/run"
    monkeypatch.setattr(run_place, "open_url", lambda _, url: epath.Path(url))
    for use in (
        open_place(RunConfig(output_dir=url)).__enter__,
        lambda: check_place(RunConfig(output_dir=url)),
    ):
        with pytest.raises(ValueError, match=r"lacks storage\.buckets\.get"):
            use()
        asked.assert_called_once_with("output_dir", url)
        asked.reset_mock()
    assert sorted(tmp_path.rglob("*")) == before


BUSY = requests.exceptions.ProxyError()  # what gcsfs makes of 502


@pytest.mark.parametrize("place", ["check_same_run", "fetch_folder"])
def test_a_passing_fault_of_the_bucket_at_the_beginning_is_no_bad_input(place, config, capsys, monkeypatch):
    """A pod's launcher restarts what failed, and gives up what was refused."""
    monkeypatch.setattr(f"prorank_jax.run_place.{place}", Mock(side_effect=BUSY))
    assert run_command(lambda: send_a_file(config)) == 1
    assert re.search("out of reach at present|cannot be reached", capsys.readouterr().err)


def test_a_passing_fault_while_a_lease_is_watched_is_no_bad_input(config, tmp_path, capsys, monkeypatch):
    file = tmp_path / "bucket" / "run" / LEASE_FILE
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    monkeypatch.setattr("prorank_jax.lease._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("prorank_jax.lease._read_anew", Mock(side_effect=[{"holder": "x"}, BUSY]))
    assert run_command(lambda: send_a_file(config)) == 1
    assert "cannot be reached" in capsys.readouterr().err
