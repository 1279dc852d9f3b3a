"""launch/tpu_pod.sh before anything is done: its settings, what it refuses, and what a dry run prints."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cpu.fake_cloud import POD, REPOSITORY, SETTINGS, FakeCloud

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


def refusal(cloud: FakeCloud, command: str, *arguments: str) -> str:
    """What is said when the command is refused before gcloud is called; one line."""
    done = cloud.try_to(command, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert done.stdout == ""
    assert cloud.calls() == []
    return done.stderr


@pytest.mark.parametrize("key", SETTINGS)
def test_a_missing_setting_is_named_with_the_remedy(key, cloud):
    lines = cloud.settings.read_text().splitlines()
    cloud.settings.write_text("\n".join(line for line in lines if not line.startswith(f"{key}=")))
    flag = "accelerator" if key == "ACCELERATOR_TYPE" else key.lower()
    assert re.search(f"{key} is not set; put {key}=.*or give --{flag}", refusal(cloud, "create"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PROJECT", "$(touch hacked)"),
        ("PROJECT", "x"),
        ("ZONE", "us-west4"),
        ("ZONE", "us-west4-a; touch hacked"),
        ("NAME", "-prorank"),
        ("NAME", "Prorank"),
        ("NAME", '"prorank"'),
        ("ACCELERATOR_TYPE", "v5litepod"),
        ("ACCELERATOR_TYPE", "v5e-16"),
        ("ACCELERATOR_TYPE", "v9-8"),
        ("RUNTIME_VERSION", "v2 --labels=x"),
        ("SPOT", "yes"),
        ("SERVICE_ACCOUNT", "me"),
        ("SHARED_FOLDER", "relative"),
    ],
)
def test_a_value_that_cannot_be_is_refused(key, value, cloud):
    cloud.set(**{key: value})
    said = refusal(cloud, "create")
    assert key in said
    assert value in said
    assert not list(cloud.folder.rglob("hacked"))


@pytest.mark.parametrize(
    "line",
    [
        "touch hacked",
        "NAME=a; touch hacked",
        "NAME=`touch hacked`",
        "export NAME=a",
        "PATH=/tmp",
        "BASH_ENV=hacked",
        "DRY_RUN=touch hacked",
        "IFS=/",
        "NAME[$(touch hacked)]=a",
        "NAME",
        "name=a",
        f"NAME={POD}",  # the second one
        " NAME=a",
    ],
)
def test_a_settings_file_is_never_executed(line, cloud):
    cloud.settings.write_text(f"{cloud.settings.read_text()}{line}\n")
    assert f"{cloud.settings}, line 6" in refusal(cloud, "create")
    assert not list(cloud.folder.rglob("hacked"))


def test_comments_empty_lines_and_foreign_line_ends_are_read(cloud):
    text = cloud.settings.read_text()
    cloud.settings.write_bytes(
        f"# a comment\r\n\r\n  # another\n{text}SPOT=true".replace("\n", "\r\n").encode()
    )
    assert "--spot" in cloud.do("create", "--dry-run")


def test_the_example_names_every_setting_and_can_be_used(cloud):
    example = (LAUNCH / "tpu_pod.env.example").read_text()
    cases = re.findall(r"^    ([A-Z_ |]+)\) pattern=", (LAUNCH / "tpu_pod/settings.sh").read_text(), re.M)
    known = {name for names in cases for name in names.split(" | ")}
    assert len(known) == 12
    assert {name for name in known if f"{name}=" in example} == known
    cloud.settings.write_text(example)
    assert "v5litepod-16" in cloud.do("create", "--dry-run")


def test_flags_win_over_the_file(cloud):
    said = cloud.do(
        "create", "--dry-run", "--name", "other", "--accelerator", "v6e-8", "--zone", "us-east1-d"
    )
    assert "create other" in said
    assert "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e" in said
    assert "us-west4-a" not in said


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_the_runtime_follows_the_accelerator_unless_given(accelerator, runtime, cloud):
    assert f"--runtime-version={runtime} " in cloud.do("create", "--dry-run", "--accelerator", accelerator)
    given = cloud.do("create", "--dry-run", "--accelerator", accelerator, "--runtime", "my-runtime")
    assert "--runtime-version=my-runtime " in given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["destroy"], "'destroy' is no command"),
        (["create", "--size", "3"], "'--size' is no flag"),
        (["create", "--zone"], "--zone has no value"),
        (["run", "--stage", "1"], "'--stage' is no flag.*behind --"),
        (["run"], "nothing to run"),
        (["train", "--"], "nothing to run"),
        (["logs", "--worker", "first"], "--worker 'first'"),
        (["logs", "--lines", "3x"], "--lines '3x'"),
        (["create", "--env", "missing.env"], "missing.env.*no such file"),
    ],
)
def test_command_lines_that_cannot_be_read(arguments, message, cloud):
    assert re.search(message, refusal(cloud, *arguments))


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("train", "runs/x"),
        ("train", ""),
        *(("run", folder) for folder in ("/tmp/x", "gs://", "gs://bucket", "gs://../x/y", "{shared}/../x")),
    ],
)
def test_an_output_dir_that_not_all_workers_see_is_refused(command, folder, cloud):
    folder = folder.format(shared=cloud.shared)
    given = ["--output_dir", folder] if folder else []
    said = refusal(cloud, command, "--", "--stage", "1", *given)
    assert re.search("output_dir=.*more than one worker.*gs://BUCKET/FOLDER", said)


@pytest.mark.parametrize(
    "given", [["--output_dir=gs://b/x"], ["--output_dir", "gs://b/x"], ["--output_dir", "{}/x"]]
)
def test_an_output_dir_that_all_workers_see_is_taken(given, cloud):
    cloud.do("run", "--dry-run", "--", *(part.format(cloud.shared) for part in given))


def test_one_worker_may_write_to_its_own_disk_unless_it_may_be_taken_away(cloud):
    cloud.set(ACCELERATOR_TYPE="v5litepod-8")
    cloud.do("run", "--dry-run", "--", "--output_dir", "runs/x")
    assert "spot" in refusal(cloud, "run", "--spot", "--", "--output_dir", "runs/x")


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
    (cloud.state / "queued-resources").mkdir()
    (cloud.state / "queued-resources" / f"{POD}.json").write_text("no json")
    done = cloud.try_to("create")
    assert done.returncode == 1
    assert "JSONDecodeError" in done.stderr
    assert "gcloud cannot say what prorank is" in done.stderr
    assert cloud.made("create") == 0


@pytest.mark.parametrize(("plain", "collection"), [([], "queued-resources"), (["--plain"], "tpu-vm")])
def test_delete_deletes_what_was_created_and_can_be_repeated(plain, collection, cloud):
    cloud.do("create", *plain)
    cloud.do("delete")
    cloud.do("delete")
    assert [call[2] for call in cloud.calls() if call[3:4] == ["delete"]] == [collection]
