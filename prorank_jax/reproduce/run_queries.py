"""What the examples of a run tell of its queries: which were drawn, and what made ones ask for.

They are the very examples that the run was trained on. They are read once, as a finished run has no others,
and what they tell is kept, as they may be deleted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prorank_jax.config import DataOptions
from prorank_jax.examples import ExampleSet
from prorank_jax.pseudo_queries import PSEUDO_PREFIX
from prorank_jax.records import DESCRIPTION_FILE, Example
from prorank_jax.run_folder import DATA_FOLDER, write_json


@functools.cache
def documents_of_made_queries(run_folder: Path, kept: Path) -> frozenset[str] | None:
    """Ids of the documents that a run's made queries ask for; None: nobody knows any more.

    Args:
        run_folder: of a run with `data.pseudo_queries`.
        kept: the file that keeps the ids.
    """
    return _told(
        run_folder,
        kept,
        lambda described: bool(described["pseudo_queries"]),
        lambda relevant: relevant.document_id if _is_made(relevant) else None,
    )


@functools.cache
def drawn_queries(run_folder: Path, data: DataOptions, kept: Path) -> frozenset[str] | None:
    """Ids of the judged queries that a run drew; None: nobody knows any more.

    Args:
        run_folder: of a run with `data.max_queries`.
        data: of its config; the held-out examples beside those it trained on are of another split or source.
        kept: the file that keeps the ids.
    """
    # Where the split has no more queries than that, nothing is said of a draw.
    wanted = (data.source, data.split, data.max_queries)
    return _told(
        run_folder,
        kept,
        lambda of: (of["source"], of["split"], of.get("most_queries", data.max_queries)) == wanted,
        lambda relevant: None if _is_made(relevant) else relevant.query_id,
    )


def _is_made(example: Example) -> bool:
    return example.query_id.startswith(PSEUDO_PREFIX)


def _told(
    run_folder: Path,
    kept: Path,
    is_meant: Callable[[Mapping[str, Any]], bool],
    tell: Callable[[Example], str | None],
) -> frozenset[str] | None:
    """What the relevant examples tell, out of the folders whose description is meant, or what was kept."""
    try:
        found = _read(run_folder, is_meant, tell)
    except ValueError:  # damaged, and a finished run never makes them again
        found = None
    if found is None:
        return frozenset(json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else None
    write_json(kept, sorted(found))
    return found


def _read(
    run_folder: Path,
    is_meant: Callable[[Mapping[str, Any]], bool],
    tell: Callable[[Example], str | None],
) -> frozenset[str] | None:
    descriptions = (run_folder / DATA_FOLDER).glob(f"*/{DESCRIPTION_FILE}")
    meant = [file.parent for file in descriptions if is_meant(json.loads(file.read_text(encoding="utf-8")))]
    if not meant:
        return None
    found: set[str] = set()
    for folder in meant:
        examples = ExampleSet(str(folder), folder)
        told = (tell(examples[int(position)]) for position in np.flatnonzero(examples.labels))
        found.update(name for name in told if name is not None)
    return frozenset(found)
