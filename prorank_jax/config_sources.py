"""What a config file says of its own source of data is not said of another one."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from prorank_jax.config import DataOptions
from prorank_jax.source_names import same_for_all_names

SOURCE = "data.source"
OF_ITS_SOURCE = (
    "data.split",
    "data.probe_source",
    "data.probe_split",
    "data.negatives_run",
    "data.teacher_scores",
    "data.teacher_depth",
    "data.relevant_score",
)

_log = logging.getLogger(__name__)


def of_chosen_source(flat: dict[str, Any], overrides: dict[str, Any], file: Path) -> dict[str, Any]:
    """The dotted fields of a file, without `OF_ITS_SOURCE` where an override names another source.

    A warning tells which values are lost. Of a file that names no source, all fields stay.
    """
    if SOURCE not in flat or _is_same(flat[SOURCE], overrides.get(SOURCE, flat[SOURCE])):
        return flat
    foreign = {name: flat[name] for name in OF_ITS_SOURCE if name in flat and name not in overrides}
    defaults = DataOptions()
    lost = [
        f"{name}={value!r}"
        for name, value in foreign.items()
        if value != getattr(defaults, name.partition(".")[2])
    ]
    if lost:
        _tell(
            f"{file}: left out {', '.join(lost)}: about data.source={flat[SOURCE]!r}, not "
            f"{overrides[SOURCE]!r}; give as an option what is to stay"
        )
    return {name: value for name, value in flat.items() if name not in foreign}


def _is_same(source: str, chosen: Any) -> bool:
    # What a program gives has not been checked yet.
    return isinstance(chosen, str) and same_for_all_names(chosen) == same_for_all_names(source)


@functools.cache
def _tell(text: str) -> None:
    """Once: with both stages, a file is read for each."""
    _log.warning(text)
