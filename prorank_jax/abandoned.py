"""Unfinished folders in a user's own places: whose they are, and which of them nobody will finish."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from prorank_jax.living import is_dead_here, may_be_elsewhere, this_process
from prorank_jax.run_folder import UNFINISHED
from prorank_jax.storage_faults import is_left_behind

_MAKER_FILE = "made_by.json"


def sign(unfinished: Path) -> None:
    """Writes into an `UNFINISHED` folder that this process is making it."""
    (unfinished / _MAKER_FILE).write_text(json.dumps(this_process()), encoding="utf-8")


def is_abandoned(path: Path) -> bool:
    """Whether a path is an `UNFINISHED` folder that was signed, and whose maker is no more.

    Of a maker that may live elsewhere only the age tells; a name like ours without a signature tells nothing.
    """
    if not path.name.startswith(UNFINISHED) or path.is_symlink():
        return False
    try:
        maker = _read((path / _MAKER_FILE).read_text(encoding="utf-8"))
        is_old = is_left_behind(path)
    except (OSError, UnicodeDecodeError):
        return False
    return is_dead_here(maker) or (is_old and may_be_elsewhere(maker))


def remove_abandoned(place: Path) -> None:
    """Deletes the abandoned folders in a folder."""
    for path in place.glob(f"{UNFINISHED}*"):
        if is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)  # another process may delete it first


def _read(signed: str) -> dict[str, object]:
    """Empty where its maker was killed while it signed."""
    with suppress(json.JSONDecodeError):
        content = json.loads(signed)
        if isinstance(content, dict):
            return content
    return {}
