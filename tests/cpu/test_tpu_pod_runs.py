"""launch/tpu_pod.sh on a pod of two workers: local processes behind a gcloud that is not Google's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpu.fake_cloud import FakeCloud, wait_until

ENDLESS = "1000000"
STRANGE = ["", "two words", "it's", 'a "quote"', "$HOME `id` \\", "*", "a\nb", "é", "--", "#!&;|<>(){}[]~"]


@pytest.fixture
def cloud(tmp_path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path, {"PRORANK_COORDINATOR_PORT": "12345"})
    cloud.make_checkout()
    yield cloud
    cloud.end_processes()


@pytest.fixture(scope="module")
def disks(tmp_path_factory) -> Path:
    """What setup leaves on the disks of two workers."""
    cloud = FakeCloud(tmp_path_factory.mktemp("disks"))
    cloud.make_checkout()
    cloud.have_pod()
    cloud.do("setup")
    return cloud.home(0).parent


@pytest.fixture
def pod(disks, cloud) -> FakeCloud:
    """A pod that is set up."""
    cloud.have_pod(disks)
    return cloud


def run_in(cloud: FakeCloud, name: str, steps: str = ENDLESS, *more: str) -> list[str]:
    return ["--", "--output_dir", str(cloud.shared / name), "--train.steps", steps, *more]


def steps(cloud: FakeCloud, name: str, worker: int) -> int:
    file = cloud.shared / name / f"checkpoint{worker}"
    text = file.read_text() if file.exists() else ""
    return int(text or 0)


def both_step(cloud: FakeCloud, name: str, beyond: int = 0) -> None:
    wait_until(lambda: min(steps(cloud, name, 0), steps(cloud, name, 1)) > beyond)


def running_pid(cloud: FakeCloud, worker: int) -> int | None:
    try:
        return cloud.pid(worker)
    except (FileNotFoundError, ValueError):
        return None


def finish(cloud: FakeCloud, name: str) -> None:
    """Lets the stand-in come to its end."""
    (cloud.shared / name / "finish").touch()


def states(cloud: FakeCloud) -> list[str]:
    return cloud.do("status").splitlines()[1:]


def test_both_workers_run_know_each_other_and_get_the_arguments_unchanged(pod):
    pod.do("run", *run_in(pod, "x", "3", "--strange", "", *STRANGE))
    wait_until(lambda: states(pod) == ["worker 0: exited (0)", "worker 1: exited (0)"])
    for worker in (0, 1):
        arguments = json.loads((pod.shared / "x" / f"arguments{worker}.json").read_text())
        assert arguments == [*run_in(pod, "x", "3", "--strange", "", *STRANGE)[1:]]
        assert json.loads((pod.shared / "x" / f"peers{worker}.json").read_text()) == {
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:12345",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(worker),
        }
        assert steps(pod, "x", worker) == 3


def test_one_worker_has_no_peers(cloud):
    cloud.set(ACCELERATOR_TYPE="v6e-8")
    cloud.have_pod(accelerator="v6e-8")
    cloud.do("setup")
    cloud.do("run", *run_in(cloud, "x", "1"))
    wait_until(lambda: states(cloud) == ["worker 0: exited (0)"])
    assert json.loads((cloud.shared / "x" / "peers0.json").read_text()) == {}


def test_a_second_run_and_a_setup_are_refused_while_one_runs(pod):
    pod.do("run", *run_in(pod, "x"))
    both_step(pod, "x")
    pids = [pod.pid(0), pod.pid(1)]
    for command, arguments in {"run": run_in(pod, "y"), "setup": []}.items():
        done = pod.try_to(command, *arguments)
        assert done.returncode == 1
        assert "a run is going on" in done.stderr
    assert states(pod) == [f"worker {worker}: running (pid {pid})" for worker, pid in enumerate(pids)]
    assert not (pod.shared / "y").exists()


def test_a_start_that_gcloud_repeats_starts_nothing_twice(pod):
    pod.do("run", *run_in(pod, "x"))
    pid = pod.pid(0)
    start = next(call for call in pod.calls() if any(" start " in word for word in call))
    command = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    repeated = pod.do("ssh", "--worker", "0", "--", "sh", "-c", command)
    assert repeated == "worker 0: started\n"
    assert pod.pid(0) == pid


def test_stop_waits_for_the_checkpoint_and_a_run_goes_on_from_it(pod):
    pod.do("run", *run_in(pod, "x", ENDLESS, "--saving_seconds", "1.5"))
    both_step(pod, "x")
    started = time.monotonic()
    assert sorted(pod.do("stop").splitlines()) == ["worker 0: stopped (143)", "worker 1: stopped (143)"]
    assert time.monotonic() - started > 1.5
    done = [steps(pod, "x", worker) for worker in (0, 1)]
    assert sorted(pod.do("stop").splitlines()) == ["worker 0: stopped (143)", "worker 1: stopped (143)"]
    pod.do("run", *run_in(pod, "x"))
    both_step(pod, "x", max(done))
    log = pod.do("logs", "--lines", "1000")
    for worker in (0, 1):
        assert f"[worker {worker}] resuming after step 0\n" in log
        assert f"[worker {worker}] resuming after step {done[worker]}\n" in log


def test_stop_says_so_when_a_run_does_not_obey_in_time(pod):
    pod.do("run", *run_in(pod, "x", ENDLESS, "--saving_seconds", "60"))
    both_step(pod, "x")
    done = pod.try_to("stop", "--stop-seconds", "1")
    assert done.returncode == 1
    assert re.search(r"still running \(pid \d+\) after 1 s", done.stderr)


def test_logs_of_one_worker_can_be_followed(pod):
    pod.do("run", *run_in(pod, "x"))
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


def test_a_worker_that_lost_its_run_says_so(pod):
    pod.do("run", *run_in(pod, "x"))
    both_step(pod, "x")
    pod.end_processes()
    wait_until(lambda: all("lost" in state for state in states(pod)))


def test_a_command_on_all_workers(pod):
    assert sorted(pod.do("ssh", "--worker", "all", "--", "sh", "-c", 'echo "$HOME  x"').splitlines()) == [
        f"{pod.home(0)}  x",
        f"{pod.home(1)}  x",
    ]
    assert pod.try_to("ssh", "--worker", "1", "--", "sh", "-c", "exit 7").returncode == 7


def test_train_goes_from_nothing_to_a_finished_run(cloud):
    cloud.do("train", "--poll", "1", *run_in(cloud, "x", "5"))
    assert [steps(cloud, "x", worker) for worker in (0, 1)] == [5, 5]
    assert (cloud.made("create"), cloud.made("scp"), cloud.made("delete")) == (1, 1, 0)


def test_train_creates_a_preempted_pod_again_and_goes_on(cloud):
    process = cloud.start("train", "--spot", "--poll", "1", *run_in(cloud, "x"))
    both_step(cloud, "x", beyond=3)
    cloud.preempt()
    before = [steps(cloud, "x", worker) for worker in (0, 1)]
    both_step(cloud, "x", beyond=max(before) + 1)
    finish(cloud, "x")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "restart 1 of at most 20" in err
    assert (cloud.made("create"), cloud.made("delete"), cloud.made("scp")) == (2, 1, 2)
    # The disks are new, so this is all they know: the second life began where the checkpoints were.
    log = cloud.do("logs", "--lines", "1000")
    for worker in (0, 1):
        assert re.findall(rf"\[worker {worker}\] resuming after step (\d+)", log) == [str(before[worker])]


def test_train_starts_all_workers_again_when_one_dies(cloud):
    process = cloud.start("train", "--poll", "1", *run_in(cloud, "x"))
    both_step(cloud, "x", beyond=3)
    pid = cloud.pid(0)
    os.kill(cloud.pid(1), signal.SIGKILL)
    wait_until(lambda: running_pid(cloud, 0) not in (None, pid))
    finish(cloud, "x")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "worker 1: exited (137)" in err
    assert "a worker died; restart 1" in err
    assert (cloud.made("create"), cloud.made("delete")) == (1, 0)


def test_train_gives_up_after_as_many_restarts_as_allowed(cloud):
    done = cloud.try_to("train", "--poll", "1", "--retries", "1", *run_in(cloud, "x", "1", "--exit", "1"))
    assert done.returncode == 1
    assert "given up after 1 restarts" in done.stderr
    assert sum(any(" start " in word for word in call) for call in cloud.calls()) == 2


def test_train_does_not_repeat_a_run_that_was_refused(cloud):
    done = cloud.try_to("train", "--poll", "1", *run_in(cloud, "x", "1", "--exit", "2"))
    assert done.returncode == 1
    assert "was refused (exit code 2)" in done.stderr
    assert "[worker 0] === " in done.stdout  # the log is shown
    assert sum(any(" start " in word for word in call) for call in cloud.calls()) == 1


def test_train_watches_a_run_that_goes_on_and_leaves_one_stopped_that_someone_stopped(pod):
    pod.do("run", *run_in(pod, "x"))
    pid = pod.pid(0)
    process = pod.start("train", "--poll", "1", *run_in(pod, "x"))
    assert process.stderr is not None
    assert process.stderr.readline() == "the run goes on already; watching it\n"
    assert pod.pid(0) == pid
    pod.do("stop")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, out + err
    assert "goes on from its checkpoint" in err


def test_interrupting_train_leaves_the_run_running(cloud):
    process = cloud.start("train", "--poll", "1", *run_in(cloud, "x"))
    both_step(cloud, "x")
    wait_until(lambda: cloud.made("ssh") >= 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err
    assert "the run goes on" in err
    assert all("running" in state for state in states(cloud))


def test_train_does_not_delete_a_pod_that_is_not_spot(cloud):
    cloud.have_pod()
    cloud.preempt()
    done = cloud.try_to("train", "--poll", "1", *run_in(cloud, "x"))
    assert done.returncode == 1
    assert "SUSPENDED" in done.stderr
    assert cloud.made("delete") == 0
