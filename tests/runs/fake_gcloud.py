"""Stands in for `gcloud compute tpus`: keeps its state in $FAKE_CLOUD and runs workers as local processes.

It knows the flags that tpu_pod.sh uses, as `gcloud` 528 takes them, and refuses all others. A worker is a
home directory; its programs `curl` (the metadata server) and `uv` are the two small scripts written here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# FakeCloud sets it too, to make a pod without asking for one.
CLOUD = Path(os.environ.get("FAKE_CLOUD", ""))
WAITING = ["WAITING_FOR_RESOURCES", "PROVISIONING"]
EVERYWHERE = {"--project", "--zone"}
CREATE = {"--accelerator-type", "--spot", "--internal-ips", "--network", "--subnetwork", "--service-account"}
FLAGS = {
    ("queued-resources", "create"): CREATE | {"--node-id", "--runtime-version"},
    ("queued-resources", "describe"): {"--format"},
    ("queued-resources", "delete"): {"--force", "--quiet"},
    ("tpu-vm", "create"): CREATE | {"--version"},
    ("tpu-vm", "describe"): {"--format"},
    ("tpu-vm", "delete"): {"--quiet"},
    ("tpu-vm", "ssh"): {"--worker", "--command", "--internal-ip"},
    ("tpu-vm", "scp"): {"--worker", "--internal-ip"},
}
CURL = """#!/bin/sh
case "$*" in
  *attributes/agent-worker-number) echo "$FAKE_WORKER" ;;
  *attributes/worker-network-endpoints) echo "$FAKE_ENDPOINTS" ;;
  *) echo "unknown: $*" >&2; exit 22 ;;
esac
"""
UV = """#!/bin/sh
while [ -e "$HOME/hold_setup" ]; do sleep 0.05; done
echo "$*" >>"$HOME/uv.log"
failures=$(cat "$HOME/uv_failures" 2>/dev/null) || failures=0
if [ "$failures" -gt 0 ]; then
  echo $((failures - 1)) >"$HOME/uv_failures"
  echo "error: request failed after 3 retries" >&2
  exit 2
fi
case "$1" in
  venv)
    for folder; do :; done
    mkdir -p "$folder/bin"
    printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$FAKE_PYTHON" >"$folder/bin/python"
    chmod +x "$folder/bin/python"
    ;;
esac
"""


class RefusedError(Exception):
    """What gcloud would print; its exit code is 1."""


def resource_file(collection: str, name: str) -> Path:
    return CLOUD / collection / f"{name}.json"


def load(collection: str, name: str) -> dict[str, str]:
    file = resource_file(collection, name)
    if not file.is_file():
        raise RefusedError(f"NOT_FOUND: Resource '{name}' was not found")
    return json.loads(file.read_text())


def save(collection: str, name: str, resource: dict[str, str]) -> None:
    file = resource_file(collection, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps(resource))
    whole.rename(file)  # others read it meanwhile


def homes(name: str) -> list[Path]:
    return sorted((CLOUD / "disks" / name).iterdir())


def make_node(name: str, accelerator: str) -> None:
    save("tpu-vm", name, {"state": "READY", "type": accelerator})
    workers = 2 if int(accelerator.rpartition("-")[2]) > 8 else 1
    for worker in range(workers):
        programs = CLOUD / "disks" / name / str(worker) / "bin"
        programs.mkdir(parents=True)
        for program, text in {"curl": CURL, "uv": UV}.items():
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)


def create(collection: str, name: str, flags: dict[str, str]) -> None:
    if resource_file(collection, name).exists():
        raise RefusedError(f"ALREADY_EXISTS: Resource '{name}' already exists")
    accelerator = flags["--accelerator-type"]
    if collection == "tpu-vm":
        make_node(name, accelerator)
    else:
        save(collection, name, {"state": WAITING[0], "type": accelerator, "node": flags["--node-id"]})


def state_told(collection: str, name: str, resource: dict[str, str]) -> str:
    """The state, or that of old for as many times as it takes the news to arrive."""
    times = int(resource.pop("old_for", "0"))
    if times == 0:
        return resource["state"]
    save(collection, name, resource | {"old_for": str(times - 1)})
    return resource["old_state"]


def describe(collection: str, name: str, fields: str) -> None:
    resource = load(collection, name)
    if resource["state"] in WAITING:
        resource["state"] = [*WAITING, "ACTIVE"][WAITING.index(resource["state"]) + 1]
        save(collection, name, resource)
        if resource["state"] == "ACTIVE":
            make_node(resource["node"], resource["type"])
    if fields == "value(networkEndpoints[].ipAddress)":
        print(";".join("127.0.0.1" for _ in homes(name)))
        return
    if fields == "value(acceleratorConfig.topology)":
        print("4x4")
        return
    expected = {
        "tpu-vm": "value(state,acceleratorType)",
        "queued-resources": "value(state.state,tpu.nodeSpec[0].node.acceleratorType)",
    }
    if fields != expected[collection]:
        raise RefusedError(f"unexpected --format={fields}")
    print(state_told(collection, name, resource), resource["type"], sep="\t")


def delete(collection: str, name: str) -> None:
    load(collection, name)
    end_processes()
    resource_file(collection, name).unlink()
    resource_file("tpu-vm", name).unlink(missing_ok=True)
    shutil.rmtree(CLOUD / "disks" / name, ignore_errors=True)


def chosen(name: str, worker: str) -> list[Path]:
    state = load("tpu-vm", name)["state"]
    if state != "READY":
        raise RefusedError(f"This TPU is in state {state}")
    return homes(name) if worker == "all" else [homes(name)[int(worker)]]


def end_processes() -> None:
    """SIGKILL to everything that runs on the workers, as when a machine is switched off."""
    for file in CLOUD.glob("disks/*/*/prorank-jax/state/pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(os.getpgid(int(file.read_text())), signal.SIGKILL)


def preempt(name: str, old_for: int = 0) -> None:
    """Takes the pod away; it is still said to be READY the next few times that somebody asks."""
    is_queued = resource_file("queued-resources", name).exists()
    if is_queued:
        set_state("queued-resources", name, "SUSPENDING", old_for)
    set_state("tpu-vm", name, "PREEMPTED", old_for)
    end_processes()
    if is_queued:
        save("queued-resources", name, load("queued-resources", name) | {"state": "SUSPENDED"})


def set_state(collection: str, name: str, state: str, old_for: int) -> None:
    resource = load(collection, name)
    news = {"state": state, "old_state": resource["state"], "old_for": str(old_for)}
    save(collection, name, resource | news)


def plan_preemption(words: str, old_for: int) -> None:
    (CLOUD / "preemption.json").write_text(json.dumps([words, old_for]))


def preempt_if_planned(name: str, command: str) -> None:
    """Takes the pod away just before it obeys the command whose words a test left here."""
    plan = CLOUD / "preemption.json"
    if not plan.exists():
        return
    words, old_for = json.loads(plan.read_text())
    if words in command:
        plan.unlink()
        preempt(name, old_for)


def ssh(name: str, worker: str, command: str) -> int:
    preempt_if_planned(name, command)
    workers = chosen(name, worker)
    endpoints = ",".join("unknown:8470:127.0.0.1" for _ in homes(name))
    started = []
    for home in workers:
        environment = json.loads(os.environ.get("FAKE_WORKER_ENVIRONMENT", "{}")) | {
            "HOME": str(home),
            "PATH": f"{home}/bin:/usr/bin:/bin",
            "FAKE_WORKER": home.name,
            "FAKE_ENDPOINTS": endpoints,
            "FAKE_PYTHON": sys.executable,
        }
        # ssh hands its words, joined by spaces, to the login shell.
        shell = ["bash", "-c", " ".join(command.split(" "))]
        started.append(subprocess.Popen(shell, cwd=home, env=environment, stdin=subprocess.DEVNULL))
    return next((code for code in [process.wait() for process in started] if code), 0)


def scp(source: str, target: str, worker: str) -> None:
    name, _, path = target.partition(":")
    for home in chosen(name, worker):
        shutil.copy(source, home / path)


def failures_file(verb: str) -> Path:
    """How often this verb is still to fail, where a test wants that."""
    return CLOUD / f"failures_of_{verb}"


def fail_if_planned(verb: str) -> None:
    plan = failures_file(verb)
    if not plan.exists():
        return
    times = int(plan.read_text())
    if times > 1:
        plan.write_text(str(times - 1))
    else:
        plan.unlink()
    raise RefusedError("UNAVAILABLE: The service is currently unavailable.")


def read_flags(words: list[str], allowed: set[str]) -> tuple[list[str], dict[str, str]]:
    names = [word for word in words if not word.startswith("--")]
    flags = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    strange = flags.keys() - allowed
    if strange:
        raise RefusedError(f"unrecognized arguments: {' '.join(sorted(strange))}")
    return names, flags


def main(arguments: list[str]) -> int:
    """Does what gcloud would; returns its exit code."""
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    if arguments[:2] == ["auth", "list"]:
        account = CLOUD / "account"
        print(account.read_text() if account.exists() else "")
        return 0
    collection, verb = arguments[2:4]
    try:
        allowed = FLAGS[(collection, verb)] | EVERYWHERE
        names, flags = read_flags(arguments[4:], allowed)
        if not flags.keys() >= EVERYWHERE:
            raise RefusedError("no project or zone")
        fail_if_planned(verb)
        if verb == "create":
            create(collection, names[0], flags)
        elif verb == "describe":
            describe(collection, names[0], flags["--format"])
        elif verb == "delete":
            delete(collection, names[0])
        elif verb == "ssh":
            return ssh(names[0], flags["--worker"], flags["--command"])
        else:
            scp(names[0], names[1], flags["--worker"])
    except RefusedError as refusal:
        print(f"ERROR: (gcloud.compute.tpus.{collection}.{verb}) {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
