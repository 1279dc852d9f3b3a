"""How a checkpoint of a run is named: `RUN` is its newest one, `RUN@STEP` that of a step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prorank_jax.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE, MODEL_CONFIG_FILE
from prorank_jax.source_names import is_url

if TYPE_CHECKING:
    from etils import epath

# These make a folder a run's.
RUN_FILES = (CONFIG_FILE, MODEL_CONFIG_FILE)
_WITH_STEP = re.compile(r"(.+)@(\d+)", re.DOTALL)


def is_run_directory(path: Path | epath.Path) -> bool:
    """Whether a folder is what `launch/tpu_train.py` writes."""
    return all((path / name).is_file() for name in RUN_FILES)


def parts_of(name: str) -> tuple[str, int] | None:
    """What stands before the last `@` of a name, and the step behind it; None where no step is.

    Slashes at its end, which completing a path leaves there, say nothing.
    """
    match = _WITH_STEP.fullmatch(name.rstrip("/"))
    return (match[1], int(match[2])) if match else None


def split_step(source: str) -> tuple[str, int | None]:
    """The name of a model on this machine without the step of a run, and that step; None: it names none.

    What is there under the whole name is what is meant: a folder's own name may hold an `@`. A URL stays
    whole; what is fetched from it is the checkpoint that it names.
    """
    parts = None if is_url(source) or Path(source).expanduser().exists() else parts_of(source)
    return parts if parts and is_run_directory(Path(parts[0]).expanduser()) else (source, None)


def saved_steps(run: Path) -> list[int]:
    """The steps of the checkpoints in a run directory, ascending."""
    names = [folder.name for folder in (run / CHECKPOINTS_FOLDER).glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def named_step(source: str, run: Path) -> int | None:
    """The step that a name asks for; None: the newest one.

    Args:
        source: as the model was asked for.
        run: the directory that it names.

    Raises:
        ValueError: there is no such checkpoint; names those that there are.
    """
    step = split_step(source)[1]
    if step is not None:
        check_step(source, step, saved_steps(run))
    return step


def check_step(source: str, step: int, there: Sequence[int]) -> None:
    """Refuses a step that is not among those of a run.

    Raises:
        ValueError: names those.
    """
    if step not in there:
        known = ", ".join(map(str, there)) or "none"
        raise ValueError(
            f"model.source={source!r}: the run has no checkpoint of step {step}; there are: {known} "
            "(checkpoint.keep says how many are kept). What is to start from a step needs it there until it "
            "has ended; an export of the step does as well"
        )
