"""The virtual environments of the peers, each with its own pinned requirements."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ENVIRONMENTS_VARIABLE = "PRORANK_BENCHMARK_ENVS"
DEFAULT_FOLDER = ".venv-benchmark"
READY_FILE = ".ready"


def environments_folder(root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the environments are: `$PRORANK_BENCHMARK_ENVS`, or `.venv-benchmark` in the repository."""
    chosen = environment.get(ENVIRONMENTS_VARIABLE)
    return Path(chosen).expanduser() if chosen else root / DEFAULT_FOLDER


def requirement_files(peers: Path, peer: str, *, cuda: bool) -> list[Path]:
    """The requirements of a peer; with a GPU also those of `requirements-NAME-cuda.txt`, if it is there."""
    on_gpu = peers / f"requirements-{peer}-cuda.txt"
    return [peers / f"requirements-{peer}.txt", *([on_gpu] if cuda and on_gpu.is_file() else [])]


def has_cuda() -> bool:
    """Whether NVIDIA's tools are installed here."""
    return shutil.which("nvidia-smi") is not None


def peer_python(folder: Path, requirements: Sequence[Path]) -> Path:
    """The interpreter of an environment, which is made, or made anew after its requirements changed.

    Args:
        folder: of the environment.
        requirements: files for pip.

    Raises:
        ValueError: something else is in the folder, or the packages cannot be installed.
    """
    python, ready = folder / "bin" / "python", folder / READY_FILE
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in requirements)).hexdigest()
    if ready.is_file() and ready.read_text(encoding="utf-8").strip() == wanted:
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise ValueError(f"{folder}: is no virtual environment; remove it or set {ENVIRONMENTS_VARIABLE}")
    ready.unlink(missing_ok=True)
    print(f"installing {', '.join(file.name for file in requirements)} into {folder}", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder)], folder)
    files = [part for file in requirements for part in ("-r", str(file))]
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *files], folder)
    ready.write_text(wanted + "\n", encoding="utf-8")
    return python


def _run(command: Sequence[str], folder: Path) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        said = (finished.stderr or finished.stdout).strip().splitlines()
        raise ValueError(
            f"{folder}: cannot be set up ({said[-1] if said else 'no reason given'}); remove it and try "
            "again, or check the network"
        )
