"""launch/tpu_pod.sh: what a dry run prints, how it quotes, and what it says of pods that are of no use."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.fake_cloud import POD, REPOSITORY, FakeCloud

LAUNCH = REPOSITORY / "launch"
GOLDEN = Path(__file__).parent / "goldens" / "tpu_pod_dry_run.txt"
TRAINING = ["--", "--stage", "1", "--output_dir", "gs://bucket/run"]
DRY_RUNS = {
    "create": [],
    "create, plain and spot": [
        "--plain",
        "--spot",
        "--network",
        "net",
        "--subnetwork",
        "sub",
        "--internal-ip",
    ],
    "setup": [],
    "run": [*TRAINING, "--data.instruction", "what's said of $HOME & co"],
    "train": ["--spot", *TRAINING],
    "benchmark": ["--", "--config", "configs/stage1.yaml", "--output_dir", "gs://bucket/run"],
    "status": [],
    "logs": ["--worker", "1", "--lines", "5", "--follow"],
    "stop": ["--stop-seconds", "30"],
    "ssh": [],
    "ssh, a command": ["--worker", "all", "--", "ls", "-l", "a b"],
    "delete": [],
    "delete, plain": ["--plain"],
}
NO_WORDS = "\0"


@pytest.fixture
def cloud(tmp_path) -> FakeCloud:
    cloud = FakeCloud(tmp_path)
    cloud.make_checkout()
    return cloud


def normalised(cloud: FakeCloud, printed: str) -> str:
    printed = printed.replace(str(cloud.checkout), "CHECKOUT").replace(str(cloud.folder), "FOLDER")
    return re.sub(r"\d{8}T\d{6}Z-\d+", "RUN_ID", printed)


def test_dry_runs_print_what_they_would_do_and_do_nothing(cloud):
    printed = []
    for name, arguments in DRY_RUNS.items():
        lines = cloud.do(name.split(",")[0], "--dry-run", *arguments)
        printed.append(f"## {name} {shlex.join(arguments)}".rstrip() + f"\n{normalised(cloud, lines)}")
    assert cloud.calls() == []
    assert "\n".join(printed) == GOLDEN.read_text()


def test_pasting_a_dry_run_does_what_the_command_does(cloud):
    cloud.have_pod()
    arguments = [
        "--",
        "--output_dir",
        f"{cloud.shared}/run",
        "--train.steps",
        "1",
        "--a",
        "it's $HOME `x` \"\\\n*",
    ]
    assert "not every worker is set up" in cloud.try_to("run", *arguments).stderr
    cloud.do("setup")
    before = len(cloud.calls())
    cloud.do("run", *arguments)
    made = cloud.calls()[before:]
    printed = cloud.do("run", "--dry-run", *arguments)
    subprocess.run(["bash", "-euc", printed], env=cloud.environment, check=False, capture_output=True)
    pasted = cloud.calls()[before + len(made) :]
    made = [call for call in made if call[:2] != ["auth", "list"]]

    def without_id(calls: list[list[str]]) -> list[list[str]]:
        return [[re.sub(r"\d{8}T\d{6}Z-\d+", "RUN_ID", word) for word in call] for call in calls]

    assert len(made) == 5
    assert without_id(pasted) == without_id(made)


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NO_WORDS)), max_size=4))
def test_quoted_words_come_back_as_they_were(words):
    script = f'. {shlex.quote(str(LAUNCH / "tpu_pod/gcloud.sh"))}; quoted "$@"'
    quoted = subprocess.check_output(["bash", "-c", script, "bash", *words])
    read_back = subprocess.check_output([b"sh", b"-c", b"printf '%s\\0' " + quoted]) if words else b""
    assert read_back == b"".join(word.encode() + b"\0" for word in words)


def test_gcloud_must_be_installed_and_logged_in(cloud):
    cloud.log_in("")
    done = cloud.try_to("create")
    assert done.returncode == 1
    assert "gcloud auth login" in done.stderr
    assert cloud.made("create") == 0
    (cloud.programs / "gcloud").unlink()
    plain = cloud.folder / "plain programs"
    plain.mkdir()
    for program in ("bash", "dirname", "mktemp", "rm", "tr", "cat", "env", "grep"):
        (plain / program).symlink_to(Path("/usr/bin") / program)
    cloud.environment["PATH"] = str(plain)
    done = cloud.try_to("create")
    assert done.returncode == 1
    assert "not installed" in done.stderr


def test_create_can_be_repeated_but_not_with_another_type(cloud):
    cloud.do("create")
    assert "PROVISIONING" in cloud.do("status")
    cloud.do("create")
    assert cloud.made("create") == 1
    assert cloud.do("status") == f"{POD}: READY, v5litepod-16\n" + 2 * "worker ?: not set up\n"
    done = cloud.try_to("create", "--accelerator", "v5litepod-32")
    assert done.returncode == 1
    assert "is a v5litepod-16, not a v5litepod-32" in done.stderr


@pytest.mark.parametrize(
    ("command", "state", "message"),
    [
        ("create", "FAILED", "will not become ready.*delete"),
        ("create", "SUSPENDED", "taken away.*delete"),
        ("setup", "DELETING", "until it is gone"),
        ("run", "SUSPENDED", "taken away.*delete"),
        ("stop", "WAITING_FOR_RESOURCES", "wait until"),
    ],
)
def test_a_pod_that_is_no_use_is_named_with_the_remedy(command, state, message, cloud):
    cloud.have_pod()
    cloud.set_state("queued-resources", state)
    done = cloud.try_to(command, *(TRAINING if command == "run" else []))
    assert done.returncode == 1
    assert re.search(f"{state.replace('WAITING_FOR_RESOURCES', 'PROVISIONING')}.*{message}", done.stderr)
    assert cloud.made("ssh") == 0


def test_without_a_pod_the_remedy_is_to_create_it(cloud):
    done = cloud.try_to("setup")
    assert done.returncode == 1
    assert "run: tpu_pod.sh create" in done.stderr
    cloud.do("delete")
    assert cloud.made("delete") == 0


def test_an_error_of_gcloud_is_shown(cloud):
    cloud.fail_next("describe", 1)
    done = cloud.try_to("create")
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert "gcloud cannot say what prorank is" in done.stderr
    assert cloud.made("create") == 0


@pytest.mark.parametrize(("plain", "collection"), [([], "queued-resources"), (["--plain"], "tpu-vm")])
def test_delete_deletes_what_was_created_and_can_be_repeated(plain, collection, cloud):
    cloud.do("create", *plain)
    cloud.do("delete")
    cloud.do("delete")
    assert [call[2] for call in cloud.calls() if call[3:4] == ["delete"]] == [collection]
