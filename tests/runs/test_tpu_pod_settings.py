"""The settings and flags of launch/tpu_pod.sh: what they may be, refused before gcloud is called."""

from __future__ import annotations

import re

import pytest

from tests.runs.fake_cloud import POD, REPOSITORY, SETTINGS, FakeCloud

LAUNCH = REPOSITORY / "launch"


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
