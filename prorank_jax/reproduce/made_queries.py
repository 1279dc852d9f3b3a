"""Which documents a run learned as relevant for queries that were made from documents."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from prorank_jax.examples import ExampleSet
from prorank_jax.pseudo_queries import PSEUDO_PREFIX
from prorank_jax.records import DESCRIPTION_FILE
from prorank_jax.run_folder import DATA_FOLDER, write_json


@functools.cache
def documents_of_made_queries(run_folder: Path, kept: Path) -> frozenset[str] | None:
    """Ids of the documents that a run's made queries ask for; None: nobody knows any more.

    They are read from the very examples it was trained on, once: a finished run has no others.

    Args:
        run_folder: of a run with `data.pseudo_queries`.
        kept: a file that keeps the ids, as the run's examples may be deleted.
    """
    described = [file.parent for file in (run_folder / DATA_FOLDER).glob(f"*/{DESCRIPTION_FILE}")]
    made = [folder for folder in described if _has_made_queries(folder)]
    if not made:
        return frozenset(json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else None
    found: set[str] = set()
    for folder in made:
        examples = ExampleSet(str(folder), folder)
        relevant = (examples[int(position)] for position in np.flatnonzero(examples.labels))
        found.update(one.document_id for one in relevant if one.query_id.startswith(PSEUDO_PREFIX))
    write_json(kept, sorted(found))
    return frozenset(found)


def _has_made_queries(examples: Path) -> bool:
    return bool(json.loads((examples / DESCRIPTION_FILE).read_text(encoding="utf-8"))["pseudo_queries"])
