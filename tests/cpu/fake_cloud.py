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
from collections.abc import Callable
from pathlib import Path

from tests.cpu import fake_gcloud

REPOSITORY = Path(__file__).parents[2]
POD = "prorank"
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "NAME": POD,
    "ACCELERATOR_TYPE": "v5litepod-16",
}
# Instead of the trainer: counts steps in a file until there is a file `finish`, or to --train.steps, and like
# it saves on SIGTERM and then exits with 143.
STAND_IN = """
import json, os, pathlib, signal, sys, time

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--exit" in arguments:
    sys.exit(int(arguments["--exit"]))
folder = pathlib.Path(arguments["--output_dir"])
folder.mkdir(parents=True, exist_ok=True)
worker = os.environ.get("JAX_PROCESS_ID", "0")
(folder / f"arguments{worker}.json").write_text(json.dumps(sys.argv[1:]))
peers = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
(folder / f"peers{worker}.json").write_text(json.dumps(peers))
checkpoint = folder / f"checkpoint{worker}"
done = int(checkpoint.read_text()) if checkpoint.exists() else 0
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
print(f"resuming after step {done}")
while done < int(arguments["--train.steps"]) and not (folder / "finish").exists():
    time.sleep(0.05)
    done += 1
    if stop:
        time.sleep(float(arguments.get("--saving_seconds", "0.3")))
    checkpoint.write_text(str(done))
    print(f"step {done}")
    if stop:
        sys.exit(143)
"""


def wait_until(condition: Callable[[], object], seconds: float = 200) -> None:
    """Fails the test if the condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
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
        gcloud = self.programs / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{fake_gcloud.__file__}" "$@"\n')
        gcloud.chmod(0o755)
        fake_gcloud.CLOUD = self.state
        self.log_in()
        self.set()
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "FAKE_CLOUD": str(self.state),
            "FAKE_WORKER_ENVIRONMENT": json.dumps(environment or {}),
        }

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
        return subprocess.Popen(
            [self.checkout / "launch" / "tpu_pod.sh", command, "--env", self.settings, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def try_to(self, command: str, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
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

    def pid(self, worker: int) -> int:
        return int((self.home(worker) / "prorank-jax" / "state" / "pid").read_text())

    def set_state(self, collection: str, state: str) -> None:
        file = self.state / collection / f"{POD}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"state": state}))

    def end_processes(self) -> None:
        """SIGKILL to everything that runs on the workers, as when a machine is switched off."""
        for file in self.state.glob("disks/*/*/prorank-jax/state/pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.killpg(os.getpgid(int(file.read_text())), signal.SIGKILL)

    def preempt(self) -> None:
        self.end_processes()
        self.set_state("tpu-vm", "PREEMPTED")
        self.set_state("queued-resources", "SUSPENDED")
