"""launch/tpu_pod.sh on a pod of two workers: local processes behind a gcloud that is not Google's."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs.fake_cloud import FakeCloud, wait_until
from tests.runs.stand_in_run import ENDLESS, Steps

STRANGE = ["", "two words", "it's", 'a "quote"', "$HOME `id` \\", "*", "a\nb", "é", "--", "#!&;|<>(){}[]~"]


@pytest.fixture
def cloud(tmp_path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path, {"PRORANK_COORDINATOR_PORT": "12345"})
    cloud.make_checkout()
    yield cloud
    cloud.close()


@pytest.fixture(scope="module")
def disks(tmp_path_factory) -> Path:
    """What setup leaves on the disks of two workers."""
    cloud = FakeCloud(tmp_path_factory.mktemp("disks"))
    cloud.make_checkout()
    cloud.have_pod()
    cloud.do("setup")
    return cloud.home(0).parent


@pytest.fixture
def steps(cloud) -> Steps:
    return Steps(cloud.shared / "x")


@pytest.fixture
def pod(disks, cloud) -> FakeCloud:
    """A pod that is set up."""
    cloud.have_pod(disks)
    return cloud


def test_both_workers_run_know_each_other_and_get_the_arguments_unchanged(pod, steps):
    pod.do("run", *steps.arguments("3", "--strange", "", *STRANGE))
    wait_until(lambda: pod.states() == ["worker 0: exited (0)", "worker 1: exited (0)"])
    for worker in (0, 1):
        arguments = json.loads((steps.folder / f"arguments{worker}.json").read_text())
        assert arguments == steps.arguments("3", "--strange", "", *STRANGE)[1:]
        assert json.loads((steps.folder / f"peers{worker}.json").read_text()) == {
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:12345",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(worker),
        }
    assert steps.done() == [3, 3]


def test_a_setup_asks_again_for_requirements_and_not_for_ever(pod):
    before = [pod.installs(worker) for worker in (0, 1)]
    pod.fail_installs(1, 3)
    pod.do("setup")
    assert [pod.installs(worker) for worker in (0, 1)] == [before[0] + 1, before[1] + 4]
    pod.fail_installs(1, 4)
    done = pod.try_to("setup")
    assert done.returncode == 1
    assert "worker 1: could not install in 4 tries" in done.stderr


def test_one_worker_has_no_peers(cloud, steps):
    cloud.set(ACCELERATOR_TYPE="v6e-8")
    cloud.have_pod(accelerator="v6e-8")
    cloud.do("setup")
    cloud.do("run", *steps.arguments("1"))
    wait_until(lambda: cloud.states() == ["worker 0: exited (0)"])
    assert json.loads((steps.folder / "peers0.json").read_text()) == {}


def test_a_second_run_and_a_setup_are_refused_while_one_runs(pod, steps):
    pod.do("run", *steps.arguments())
    wait_until(steps.are_beyond)
    pids = [pod.pid(0), pod.pid(1)]
    for command, arguments in {"run": Steps(pod.shared / "y").arguments(), "setup": []}.items():
        done = pod.try_to(command, *arguments)
        assert done.returncode == 1
        assert "a run is going on" in done.stderr
    assert pod.states() == [f"worker {worker}: running (pid {pid})" for worker, pid in enumerate(pids)]
    assert not (pod.shared / "y").exists()


def test_commands_during_a_setup_say_that_it_goes_on(pod, steps):
    pod.do("run", *steps.arguments("1"))
    wait_until(lambda: pod.states() == ["worker 0: exited (0)", "worker 1: exited (0)"])
    with pod.held_setup() as setup:
        assert pod.states() == ["worker 0: busy (setup or start)", "worker 1: busy (setup or start)"]
        assert "a setup or a start is going on" in pod.try_to("run", *steps.arguments()).stderr
        for process in [pod.start("setup"), pod.start("stop")]:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 1
            assert "busy (setup or start); try again in a minute" in err
    assert setup.wait(timeout=300) == 0
    assert pod.states() == ["worker 0: exited (0)", "worker 1: exited (0)"]


def test_a_look_at_a_worker_is_no_run_and_a_setup_waits_for_its_end(pod):
    with (pod.home(0) / "prorank-jax" / "state" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert pod.states() == ["worker 0: never started", "worker 1: never started"]
        setup = pod.start("setup")
        wait_until(lambda: pod.made("scp") == 1, process=setup)
        time.sleep(1)
    out, err = setup.communicate(timeout=300)
    assert setup.returncode == 0, out + err


def test_a_start_that_gcloud_repeats_starts_nothing_twice(pod, steps):
    pod.do("run", *steps.arguments())
    pid = pod.pid(0)
    start = next(call for call in pod.calls() if any(" start " in word for word in call))
    command = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    repeated = pod.do("ssh", "--worker", "0", "--", "sh", "-c", command)
    assert repeated == "worker 0: started\n"
    assert pod.pid(0) == pid


def test_stop_waits_for_the_checkpoint_and_a_run_goes_on_from_it(pod, steps):
    pod.do("run", *steps.arguments(ENDLESS, "--saving_seconds", "1.5"))
    wait_until(steps.are_beyond)
    started = time.monotonic()
    assert sorted(pod.do("stop").splitlines()) == ["worker 0: stopped (143)", "worker 1: stopped (143)"]
    assert time.monotonic() - started > 1.5
    done = steps.done()
    assert sorted(pod.do("stop").splitlines()) == ["worker 0: stopped (143)", "worker 1: stopped (143)"]
    pod.do("run", *steps.arguments())
    wait_until(lambda: steps.are_beyond(max(done)))
    log = pod.do("logs", "--lines", "1000")
    for worker in (0, 1):
        assert f"[worker {worker}] resuming after step 0\n" in log
        assert f"[worker {worker}] resuming after step {done[worker]}\n" in log


def test_stop_says_so_when_a_run_does_not_obey_in_time(pod, steps):
    pod.do("run", *steps.arguments(ENDLESS, "--saving_seconds", "60"))
    wait_until(steps.are_beyond)
    done = pod.try_to("stop", "--stop-seconds", "1")
    assert done.returncode == 1
    assert re.search(r"still running \(pid \d+\) after 1 s", done.stderr)


def test_logs_of_one_worker_can_be_followed(pod, steps):
    pod.do("run", *steps.arguments())
    follower = pod.start("logs", "--worker", "1", "--lines", "3", "--follow")
    assert follower.stdout is not None
    lines = [follower.stdout.readline() for _ in range(10)]
    follower.kill()
    for process in Path("/proc").glob("[0-9]*"):  # ssh would end it; the stand-in leaves it
        if str(pod.home(1)).encode() in _environment(process) and b"tail" in _command(process):
            os.kill(int(process.name), signal.SIGKILL)
    assert all(line.startswith("[worker 1] ") for line in lines)
    assert any("step" in line for line in lines)


def _environment(process: Path) -> bytes:
    return _read(process / "environ")


def _command(process: Path) -> bytes:
    return _read(process / "cmdline")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_setup_can_be_repeated_and_keeps_what_runs_wrote(pod):
    checkout = pod.home(1) / "prorank-jax" / "checkout"
    mine = checkout / "runs" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("kept")
    assert (checkout / "requirements.txt").exists()
    (pod.checkout / "requirements.txt").unlink()
    assert "requirements.txt" in pod.try_to("setup").stderr  # git still lists it
    _git(pod, "rm", "--quiet", "--cached", "requirements.txt")
    (pod.checkout / "new file.py").write_text("x = 1\n")
    (pod.checkout / ".gitignore").write_text("secret\n")
    (pod.checkout / "secret").write_text("not sent")
    pod.do("setup")
    assert mine.read_text() == "kept"
    assert not (checkout / "requirements.txt").exists()
    assert (checkout / "new file.py").read_text() == "x = 1\n"
    assert not (checkout / "secret").exists()
    log = (pod.home(1) / "uv.log").read_text().splitlines()
    assert sum(line.startswith("venv") for line in log) == 1
    assert sum("-r requirements.txt -e .[tpu,gcs]" in line for line in log) == 2


def _git(cloud: FakeCloud, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=cloud.checkout, check=True)


def test_a_worker_that_lost_its_run_says_so(pod, steps):
    pod.do("run", *steps.arguments())
    wait_until(steps.are_beyond)
    pod.end_processes()
    wait_until(lambda: all("lost" in state for state in pod.states()))


def test_a_command_on_all_workers(pod):
    assert sorted(pod.do("ssh", "--worker", "all", "--", "sh", "-c", 'echo "$HOME  x"').splitlines()) == [
        f"{pod.home(0)}  x",
        f"{pod.home(1)}  x",
    ]
    assert pod.try_to("ssh", "--worker", "1", "--", "sh", "-c", "exit 7").returncode == 7
