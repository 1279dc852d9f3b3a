from __future__ import annotations

import pytest

from prorank_jax.benchmarks import environments
from prorank_jax.benchmarks.environments import environments_folder, peer_python, requirement_files


@pytest.fixture
def commands(monkeypatch):
    """What would be run; making an environment leaves its mark, as venv does."""
    run = []

    def stand_in(command, folder):
        run.append(command)
        folder.mkdir(exist_ok=True)
        (folder / "pyvenv.cfg").touch()

    monkeypatch.setattr(environments, "_run", stand_in)
    return run


def _requirements(tmp_path, text="trl==1\n"):
    file = tmp_path / "requirements-trl.txt"
    file.write_text(text)
    return [file]


def test_an_environment_is_made_once_and_again_after_its_requirements_change(tmp_path, commands):
    folder = tmp_path / "trl"
    python = peer_python(folder, _requirements(tmp_path))
    assert python == folder / "bin" / "python"
    assert [command[:3] for command in commands][1] == [str(python), "-m", "pip"]
    assert commands[1][-2:] == ["-r", str(tmp_path / "requirements-trl.txt")]
    peer_python(folder, _requirements(tmp_path))
    assert len(commands) == 2
    peer_python(folder, _requirements(tmp_path, "trl==2\n"))
    assert len(commands) == 4


@pytest.mark.usefixtures("commands")
def test_an_installation_that_fails_is_not_taken_for_ready(tmp_path, monkeypatch):
    folder = tmp_path / "trl"
    peer_python(folder, _requirements(tmp_path))

    def fail(*_):
        raise ValueError("no network")

    monkeypatch.setattr(environments, "_run", fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no network"):
            peer_python(folder, _requirements(tmp_path, "trl==2\n"))


def test_a_command_that_fails_ends_with_what_it_said(tmp_path):
    with pytest.raises(ValueError, match=r"env: cannot be set up \(no such package\); remove it"):
        environments._run(["sh", "-c", "echo no such package >&2; exit 1"], tmp_path / "env")


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path, commands):
    (tmp_path / "trl").mkdir()
    with pytest.raises(ValueError, match="is no virtual environment; remove it or set PRORANK_BENCHMARK"):
        peer_python(tmp_path / "trl", _requirements(tmp_path))
    assert not commands


def test_packages_for_cuda_come_along_only_with_a_gpu(tmp_path):
    (tmp_path / "requirements-tunix-cuda.txt").touch()
    names = [file.name for file in requirement_files(tmp_path, "tunix", cuda=True)]
    assert names == ["requirements-tunix.txt", "requirements-tunix-cuda.txt"]
    assert len(requirement_files(tmp_path, "tunix", cuda=False)) == 1
    assert len(requirement_files(tmp_path, "trl", cuda=True)) == 1


def test_the_folder_may_be_chosen(tmp_path):
    assert environments_folder(tmp_path, {}) == tmp_path / ".venv-benchmark"
    chosen = environments_folder(tmp_path, {"PRORANK_BENCHMARK_ENVS": "/somewhere"})
    assert str(chosen) == "/somewhere"
