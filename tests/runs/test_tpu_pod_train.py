"""`launch/tpu_pod.sh train`: from nothing to a finished run, through preemptions and workers that die."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.runs.fake_cloud import FakeCloud, wait_until
from tests.runs.stand_in_run import Steps


@pytest.fixture
def cloud(tmp_path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path)
    cloud.make_checkout()
    yield cloud
    cloud.close()


@pytest.fixture
def steps(cloud) -> Steps:
    return Steps(cloud.shared / "x")


def see_it_go_on(process: subprocess.Popen[str], steps: Steps) -> list[int]:
    """Waits until each worker has made more steps than any has now; returns those."""
    before = steps.done()
    wait_until(lambda: steps.are_beyond(max(before) + 1), process=process)
    return before


def finish(process: subprocess.Popen[str], steps: Steps) -> str:
    """Lets the run come to its end, which must be a good one; returns what the launcher said."""
    steps.finish()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return err


def test_train_goes_from_nothing_to_a_finished_run(cloud, steps):
    cloud.do("train", "--poll", "1", *steps.arguments("5"))
    assert steps.done() == [5, 5]
    assert (cloud.made("create"), cloud.made("scp"), cloud.made("delete")) == (1, 1, 0)


def test_train_creates_a_preempted_pod_again_and_goes_on(cloud, steps):
    process = cloud.start("train", "--spot", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3))
    cloud.preempt()
    before = see_it_go_on(process, steps)
    err = finish(process, steps)
    assert "restart 1 of at most 20" in err
    assert (cloud.made("create"), cloud.made("delete"), cloud.made("scp")) == (2, 1, 2)
    # The disks are new, so this is all they know: the second life began where the checkpoints were.
    log = cloud.do("logs", "--lines", "1000")
    for worker in (0, 1):
        assert re.findall(rf"\[worker {worker}\] resuming after step (\d+)", log) == [str(before[worker])]


def test_train_creates_a_preempted_tpu_vm_without_a_queued_resource_again(cloud, steps):
    process = cloud.start("train", "--plain", "--spot", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3), process=process)
    cloud.preempt()
    see_it_go_on(process, steps)
    err = finish(process, steps)
    assert "is PREEMPTED; restart 1 of at most 20" in err


def test_train_waits_for_the_end_of_a_tpu_vm_that_is_taken_away(cloud, steps):
    process = cloud.start("train", "--spot", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3), process=process)
    cloud.set_state("tpu-vm", "DELETING")
    assert process.stderr is not None
    assert any("is DELETING; waiting" in line for line in process.stderr)
    cloud.preempt()
    finish(process, steps)
    assert cloud.made("create") == 2


@pytest.mark.parametrize("how", [[], ["--plain"], ["--spot"]], ids=["queued", "plain", "spot"])
def test_train_does_not_create_a_pod_again_that_somebody_deleted(cloud, steps, how):
    process = cloud.start("train", *how, "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3), process=process)
    cloud.do("delete")
    assert_leaves_it_deleted(cloud, process, created=1)


def assert_leaves_it_deleted(cloud: FakeCloud, process: subprocess.Popen[str], created: int) -> None:
    wait_until(lambda: process.poll() is not None or cloud.made("create") > created)
    assert cloud.made("create") == created
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "prorank was deleted while it was watched; repeat the command to create it again" in err


def test_train_does_not_create_a_pod_that_somebody_deleted_while_it_waited_for_it(cloud, steps):
    cloud.have_pod()
    cloud.set_state("queued-resources", "CREATING")
    process = cloud.start("train", "--spot", "--poll", "1", *steps.arguments())
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    cloud.do("delete")
    assert_leaves_it_deleted(cloud, process, created=0)


def test_train_does_not_create_a_pod_that_somebody_deleted_while_it_was_set_up(cloud, steps):
    cloud.have_pod()
    cloud.do("setup")
    with cloud.held_setup("train", "--spot", "--poll", "1", *steps.arguments()) as process:
        cloud.do("delete")
    assert_leaves_it_deleted(cloud, process, created=0)


@pytest.mark.parametrize(("doing", "old_for"), [("status", 4), ("install", 0), ("install", 4), ("start", 0)])
def test_train_creates_a_pod_again_that_is_taken_away_before_its_run_began(cloud, steps, doing, old_for):
    """gcloud says at once that it is gone, or only the fifth time that it is asked."""
    cloud.preempt_at(f"worker.sh {doing}", old_for)
    done = cloud.try_to("train", "--spot", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restart 1 of at most 20" in done.stderr
    assert steps.done() == [5, 5]
    assert (cloud.made("create"), cloud.made("delete")) == (2, 1)


@pytest.mark.parametrize(("doing", "old_for"), [("logs", 0), ("stop", 0), ("stop", 4), ("install", 4)])
def test_train_creates_a_pod_again_whose_workers_died_first(cloud, steps, doing, old_for):
    """A worker may be gone, and seen to be, before gcloud says that the pod is."""
    process = cloud.start("train", "--spot", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3), process=process)
    cloud.preempt_at(f"worker.sh {doing}", old_for)
    cloud.kill(1)
    wait_until(lambda: cloud.made("create") == 2, process=process)
    see_it_go_on(process, steps)
    err = finish(process, steps)
    assert "is SUSPENDED; restart" in err


def test_train_outlives_a_worker_whose_requirements_do_not_come_at_once(cloud, steps):
    cloud.have_pod()
    cloud.fail_installs(1, 3)
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker 1: could not install (try 3 of 4); trying again in 0 s" in done.stderr
    assert "restart" not in done.stderr
    assert steps.done() == [5, 5]


def test_train_says_what_failed_on_a_pod_that_is_still_there(cloud, steps):
    cloud.have_pod()
    cloud.do("setup")
    (cloud.home(1) / "prorank-jax" / "venv" / "bin" / "python").unlink()
    (cloud.home(1) / "bin" / "uv").write_text("#!/bin/sh\nexit 7\n")
    done = cloud.try_to("train", "--spot", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 1
    assert "worker 1: could not install in 4 tries; see above" in done.stderr
    assert "prorank is there, but could not be set up and started" in done.stderr
    assert cloud.made("delete") == 0


def test_train_starts_all_workers_again_when_one_dies(cloud, steps):
    process = cloud.start("train", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3))
    pid = cloud.pid(0)
    cloud.kill(1)
    wait_until(lambda: cloud.pid(0) not in (None, pid))
    err = finish(process, steps)
    assert "worker 1: exited (137)" in err
    assert "a worker died; restart 1" in err
    assert (cloud.made("create"), cloud.made("delete")) == (1, 0)


def test_train_outlives_an_outage_of_gcloud(cloud, steps):
    process = cloud.start("train", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3))
    cloud.fail_next("describe", 4)
    wait_until(lambda: not cloud.will_fail("describe"), process=process)
    err = finish(process, steps)
    assert "restart" not in err


def test_train_asks_again_where_gcloud_did_not_create_the_pod(cloud, steps):
    cloud.fail_next("create", 4)
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stderr.count("creating prorank"), done.stderr.count("UNAVAILABLE")) == (1, 1)
    assert steps.done() == [5, 5]


def test_train_asks_again_where_gcloud_did_not_delete_what_is_left(cloud, steps):
    cloud.have_pod()
    cloud.preempt()
    cloud.fail_next("delete", 2)
    done = cloud.try_to("train", "--spot", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stderr.count("restart"), done.stderr.count("UNAVAILABLE")) == (1, 1)
    assert (cloud.made("delete"), cloud.made("create")) == (3, 1)


def test_train_ends_with_the_words_of_gcloud_that_will_not_create_the_pod(cloud, steps):
    cloud.fail_next("create", 100)
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("5"))
    assert done.returncode == 1
    assert cloud.made("create") == 5
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "creating prorank (v5litepod-16)",
        "ERROR",
        "error",
    ]


def test_train_gives_up_after_as_many_restarts_as_allowed(cloud, steps):
    done = cloud.try_to("train", "--poll", "1", "--retries", "1", *steps.arguments("1", "--exit", "1"))
    assert done.returncode == 1
    assert "given up after 1 restarts" in done.stderr
    assert sum(any(" start " in word for word in call) for call in cloud.calls()) == 2


def starts(cloud: FakeCloud) -> int:
    return sum(any(" start " in word for word in call) for call in cloud.calls())


@pytest.mark.parametrize(
    ("how", "lives"), [(["--exit", "1"], 2), (["--fail_at", "3"], 3)], ids=["at once", "at a step"]
)
def test_train_gives_up_a_run_that_fails_by_itself_again_without_coming_further(cloud, steps, how, lives):
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("9", *how))
    assert done.returncode == 1
    assert "failed by itself twice in a row and came no further" in done.stderr
    assert "[worker 0] RuntimeError: out of memory" in done.stdout
    assert starts(cloud) == lives


@pytest.mark.parametrize(("option", "count", "restarts"), [("--fail_every", 9, 4), ("--kill_every", 11, 5)])
def test_train_goes_on_with_a_run_that_ends_early_but_comes_further_each_time(
    option, count, restarts, cloud, steps
):
    """It fails by itself, or is killed."""
    done = cloud.try_to("train", "--poll", "1", *steps.arguments(str(count), option, "2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"restart {restarts} of at most 20" in done.stderr
    assert steps.done() == [count, count]


def test_train_outlives_an_outage_of_the_bucket_of_a_run_that_had_begun(cloud, steps):
    process = cloud.start("train", "--poll", "1", *steps.arguments())
    wait_until(lambda: steps.are_beyond(3), process=process)
    (steps.folder / "outage").touch()
    wait_until(lambda: starts(cloud) == 5, process=process)
    (steps.folder / "outage").unlink()
    see_it_go_on(process, steps)
    assert "a worker died; restart 4 of at most 20" in finish(process, steps)


def kill_in_life(life, cloud, process):
    """Kills worker 1 of the run's n-th start as soon as it is there."""
    wait_until(lambda: starts(cloud) == life and cloud.pid(1) is not None, process=process)
    cloud.kill(1)


def test_train_starts_a_run_again_whose_worker_is_killed_before_its_first_step(cloud, steps):
    """Each time at the same place, but it did not fail by itself."""
    hold = ["--start_seconds", "1000"]
    process = cloud.start("train", "--poll", "1", "--stop-seconds", "1", *steps.arguments("5", *hold))
    for life in (1, 2, 3):
        kill_in_life(life, cloud, process)
    wait_until(lambda: starts(cloud) == 4, process=process)


def test_train_gives_up_a_run_that_is_killed_again_and_again_at_the_same_place(cloud, steps):
    """The first life went on from another checkpoint than the four that come no further."""
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("9", "--kill_at", "3"))
    assert done.returncode == 1
    assert (
        "killed (exit code 137) 4 times in a row at the same place: its host has too little memory"
        in done.stderr
    )
    assert starts(cloud) == 5


def test_train_counts_kills_anew_on_a_pod_that_took_the_place_of_one_taken_away(cloud, steps):
    hold = ["--start_seconds", "1000"]
    options = ["--spot", "--poll", "1", "--stop-seconds", "1"]
    process = cloud.start("train", *options, *steps.arguments("5", *hold))
    for life in (1, 2, 3):
        kill_in_life(life, cloud, process)
    wait_until(lambda: starts(cloud) == 4 and cloud.pid(1) is not None, process=process)
    cloud.preempt()
    kill_in_life(5, cloud, process)
    wait_until(lambda: starts(cloud) == 6, process=process)


def test_train_does_not_repeat_a_run_that_was_refused(cloud, steps):
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("1", "--exit", "2"))
    assert done.returncode == 1
    assert "was refused (exit code 2)" in done.stderr
    assert "[worker 0] === " in done.stdout  # the log is shown
    assert sum(any(" start " in word for word in call) for call in cloud.calls()) == 1


def test_train_watches_a_run_that_goes_on_and_leaves_one_stopped_that_someone_stopped(cloud, steps):
    cloud.have_pod()
    cloud.do("setup")
    cloud.do("run", *steps.arguments())
    pid = cloud.pid(0)
    process = cloud.start("train", "--poll", "1", *steps.arguments())
    assert process.stderr is not None
    assert process.stderr.readline() == "the run goes on already; watching it\n"
    assert cloud.pid(0) == pid
    cloud.do("stop")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, out + err
    assert "goes on from its checkpoint" in err


def test_train_does_not_take_a_run_of_other_arguments_for_its_own(cloud, steps):
    cloud.have_pod()
    cloud.do("setup")
    cloud.do("run", *steps.arguments())
    pid = cloud.pid(0)
    done = cloud.try_to("train", "--poll", "1", *steps.arguments("7"))
    assert done.returncode == 1
    assert "a run of other arguments is going on" in done.stderr
    assert cloud.pid(0) == pid


def test_train_takes_neither_a_setup_nor_an_older_run_for_its_own(cloud, steps):
    older = Steps(cloud.shared / "older")
    cloud.do("train", "--poll", "1", *older.arguments("1"))
    with cloud.held_setup() as setup:
        process = cloud.start("train", "--poll", "1", *steps.arguments("3"))
        assert process.stderr is not None
        assert process.stderr.readline() == "worker 0: busy (setup or start)\n"
        assert process.stderr.readline() == "worker 1: busy (setup or start); waiting\n"
    assert setup.wait(timeout=300) == 0
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert steps.done() == [3, 3]


def test_interrupting_train_leaves_the_run_running(cloud, steps):
    process = cloud.start("train", "--poll", "1", *steps.arguments())
    wait_until(steps.are_beyond)
    wait_until(lambda: cloud.made("ssh") >= 4)

    def interrupted() -> bool:
        # As a terminal does, to all that the command started; a gcloud under way may keep it to itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
        return process.poll() is not None

    wait_until(interrupted)
    out, err = process.communicate()
    assert process.returncode == 130, out + err
    assert "the run goes on" in err
    assert all("running" in state for state in cloud.states())


def test_train_does_not_delete_a_pod_that_is_not_spot(cloud, steps):
    cloud.have_pod()
    cloud.preempt()
    done = cloud.try_to("train", "--poll", "1", *steps.arguments())
    assert done.returncode == 1
    assert "SUSPENDED" in done.stderr
    assert cloud.made("delete") == 0
