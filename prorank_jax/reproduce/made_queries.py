"""Which documents a run learned as relevant for queries that were made from documents."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from prorank_jax.examples import ExampleSet
from prorank_jax.pseudo_queries import PSEUDO_PREFIX
from prorank_jax.records import DESCRIPTION_FILE
from prorank_jax.run_folder import DATA_FOLDER


@functools.cache
def documents_of_made_queries(run_folder: Path) -> frozenset[str]:
    """Ids of the documents that a run's made queries (`data.pseudo_queries`) ask for.

    They are read from the very examples it was trained on, once: a finished run has no others. None where
    those are gone.
    """
    found: set[str] = set()
    for description in (run_folder / DATA_FOLDER).glob(f"*/{DESCRIPTION_FILE}"):
        if json.loads(description.read_text(encoding="utf-8"))["pseudo_queries"]:
            examples = ExampleSet(str(description.parent), description.parent)
            relevant = (examples[int(position)] for position in np.flatnonzero(examples.labels))
            found.update(one.document_id for one in relevant if one.query_id.startswith(PSEUDO_PREFIX))
    return frozenset(found)
