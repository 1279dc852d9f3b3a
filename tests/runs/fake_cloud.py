"""A cloud of local processes for tests of launch/tpu_pod.sh: a checkout to send, a project, and its pods."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.runs import fake_gcloud
from tests.runs.stand_in_run import STAND_IN

REPOSITORY = Path(__file__).parents[2]
POD = "prorank"
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "NAME": POD,
    "ACCELERATOR_TYPE": "v5litepod-16",
}


def heed_interrupts() -> None:
    """Undoes what a job in the background inherits: bash cannot trap what was ignored when it started."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(
    condition: Callable[[], object], seconds: float = 200, process: subprocess.Popen[str] | None = None
) -> None:
    """Fails the test if the condition does not come true, or cannot any more as the process ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    """A port nobody listens on, for jax's coordinator."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class FakeCloud:
    """What a user has: a checkout with tpu_pod.sh, settings, a shared folder, and gcloud on the PATH."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.state = folder / "cloud"
        self.shared = folder / "shared"
        self.checkout = folder / "my checkout"  # a path that needs quoting
        self.settings = folder / "pod.env"
        for made in (self.state, self.shared):
            made.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.add_program("gcloud", f'exec "{sys.executable}" -I -S "{fake_gcloud.__file__}" "$@"')
        self.add_program("sleep", "exec /bin/sleep 0.25")  # only the launcher's; the workers' is the real one
        self.started: list[subprocess.Popen[str]] = []
        fake_gcloud.CLOUD = self.state
        self.log_in()
        self.set()
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "FAKE_CLOUD": str(self.state),
            "FAKE_WORKER_ENVIRONMENT": json.dumps(
                {"PRORANK_INSTALL_WAIT_SECONDS": "0"} | (environment or {})
            ),
        }

    def add_program(self, name: str, command: str) -> None:
        """One on the PATH of the launcher."""
        (self.programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (self.programs / name).chmod(0o755)

    def log_in(self, account: str = "me@example.com") -> None:
        (self.state / "account").write_text(account)

    def set(self, **changes: str) -> None:
        lines = (SETTINGS | {"SHARED_FOLDER": str(self.shared)} | changes).items()
        self.settings.write_text("".join(f"{key}={value}\n" for key, value in lines))

    def make_checkout(self, trainer: str | None = STAND_IN) -> None:
        """A git checkout of the launcher with a stand-in for the trainer, or of the whole repository."""
        listed = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, text=True
        )
        for name in filter(None, listed.split("\0")):
            if trainer is None or name.startswith("launch/tpu_pod") or name == "requirements.txt":
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, self.checkout / name)
        if trainer is not None:
            (self.checkout / "launch" / "tpu_train.py").write_text(trainer)
        subprocess.run(["git", "init", "--quiet"], cwd=self.checkout, check=True)
        subprocess.run(["git", "add", "--all"], cwd=self.checkout, check=True)

    def have_pod(self, disks: Path | None = None, accelerator: str = SETTINGS["ACCELERATOR_TYPE"]) -> None:
        """A queued resource that is ready, with the disks of another one or with empty ones."""
        fake_gcloud.save("queued-resources", POD, {"state": "ACTIVE", "type": accelerator, "node": POD})
        fake_gcloud.make_node(POD, accelerator)
        if disks is not None:
            shutil.copytree(disks, self.home(0).parent, dirs_exist_ok=True)

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.checkout / "launch" / "tpu_pod.sh", command, "--env", self.settings, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, as a terminal gives each command
            preexec_fn=heed_interrupts,
        )
        self.started.append(process)
        return process

    def try_to(self, command: str, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        process = self.start(command, *arguments)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def do(self, command: str, *arguments: str) -> str:
        """Runs a command that must succeed; returns what it prints."""
        done = self.try_to(command, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def calls(self) -> list[list[str]]:
        file = self.state / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def made(self, verb: str) -> int:
        return sum(call[3:4] == [verb] for call in self.calls())

    def home(self, worker: int) -> Path:
        return self.state / "disks" / POD / str(worker)

    def pid(self, worker: int) -> int | None:
        """The trainer's on a worker, while it runs."""
        try:
            return int((self.home(worker) / "prorank-jax" / "state" / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @contextlib.contextmanager
    def held_setup(self, command: str = "setup", *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A setup, or a command that begins with one, that comes no further as long as this does not end."""
        holds = [self.home(worker) / "hold_setup" for worker in (0, 1)]
        for hold in holds:
            hold.touch()
        process = self.start(command, *arguments)
        wait_until(lambda: all("busy" in state for state in self.states()), process=process)
        yield process
        for hold in holds:
            hold.unlink(missing_ok=True)

    def fail_installs(self, worker: int, times: int) -> None:
        """Has the programs that install on a worker fail the next few times."""
        (self.home(worker) / "uv_failures").write_text(str(times))

    def installs(self, worker: int) -> int:
        """How often a worker has asked for the requirements."""
        return (self.home(worker) / "uv.log").read_text().count("pip install")

    def kill(self, worker: int) -> None:
        """SIGKILL to the trainer of one worker."""
        pid = self.pid(worker)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def states(self) -> list[str]:
        """What status says of each worker."""
        return self.do("status").splitlines()[1:]

    def set_state(self, collection: str, state: str) -> None:
        fake_gcloud.save(collection, POD, fake_gcloud.load(collection, POD) | {"state": state})

    def close(self) -> None:
        """Ends all that is left of a test, commands first, so that none starts anything again."""
        for process in self.started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        fake_gcloud.end_processes()

    def end_processes(self) -> None:
        fake_gcloud.end_processes()

    def preempt(self) -> None:
        fake_gcloud.preempt(POD)

    def preempt_at(self, words: str, old_for: int = 0) -> None:
        """Has the pod taken away just before it obeys the next command with these words; see preempt."""
        fake_gcloud.plan_preemption(words, old_for)

    def fail_next(self, verb: str, times: int) -> None:
        """Has gcloud fail the next few times that it is asked to describe something, say."""
        fake_gcloud.failures_file(verb).write_text(str(times))

    def will_fail(self, verb: str) -> bool:
        return fake_gcloud.failures_file(verb).exists()
