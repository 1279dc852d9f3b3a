"""Launchers in processes of their own: their exit codes, and SIGTERM passed on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from prorank_jax.launching import Interrupted
from prorank_jax.reproduce import children
from prorank_jax.reproduce.children import run_launcher

OBEDIENT = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1], "obeyed").touch(), sys.exit(143)))
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""


@pytest.fixture
def launchers(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(children, "LAUNCHERS", tmp_path)
    (tmp_path / "end.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    (tmp_path / "obedient.py").write_text(OBEDIENT)
    return tmp_path


@pytest.mark.usefixtures("launchers")
@pytest.mark.parametrize(
    ("code", "error"), [(2, ValueError), (130, KeyboardInterrupt), (143, Interrupted), (1, ValueError)]
)
def test_exit_codes_become_what_they_stand_for(code, error):
    run_launcher("end.py", ["0"])
    with pytest.raises(error, match={1: "exit code 1", 2: "refused its input"}.get(code)):
        run_launcher("end.py", [str(code)])


def test_sigterm_is_passed_on_and_waited_for(launchers):
    def stop_when_ready() -> None:
        while not (launchers / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_when_ready).start()
    with pytest.raises(Interrupted, match="goes on from there"):
        run_launcher("obedient.py", [str(launchers)])
    assert (launchers / "obeyed").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_launchers_are_where_they_are_looked_for():
    for name in ("tpu_train.py", "probe.py", "evaluate.py", "export_hf.py"):
        assert (children.LAUNCHERS / name).is_file()
