"""How sources of data are named: the demo, ids of the catalogue of ir_datasets, fields that hold a name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

DEMO = "demo"
# Marks an id of the catalogue among the names of files and folders.
CATALOGUE_PREFIX = "ir_datasets:"
_EMBEDDING_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_MOST_NAMED = 5


class SourceFields(NamedTuple):
    """The fields or options that named a source and its split: what messages about those call them."""

    source: str = "data.source"
    split: str = "data.split"


TRAINED_ON = SourceFields()
PROBE_SPLIT = "data.probe_split"


def is_url(text: str) -> bool:
    """Whether a field names a place by its URL; all else is a local path or a name."""
    return "://" in text


def same_for_all_names(source: str) -> str:
    """What all names of one source share: a resolved path, a URL without slashes at its end, or an id.

    A text that can be no path, as one with a null character, stays; whoever opens it says so.
    """
    if source == DEMO or source.startswith(CATALOGUE_PREFIX):
        return source
    if is_url(source):
        return source.rstrip("/")
    try:
        return str(Path(source).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):
        return source


def names_embedding_file(source: str) -> bool:
    """Whether a source is named as a `.jsonl` file is, packed or not: it holds groups, perhaps scores.

    A folder here is none, whatever its name.
    """
    return source.endswith(_EMBEDDING_ENDINGS) and not Path(source).is_dir()


def nearest_ids(identifier: str) -> list[str]:
    """At most five ids: those below this one, else those spelled like it, the nearest first.

    The one above comes first of all where it has judgements: not every collection of BEIR has a `/test`.
    """
    # Imported here, as below: it reads its whole catalogue, and only ids of it need that.
    import ir_datasets

    known = list(ir_datasets.registry)
    children = [name for name in known if name.startswith(identifier.rstrip("/") + "/")]
    if children:
        return children[:_MOST_NAMED]
    parent = identifier.rpartition("/")[0]
    above = [parent] if parent in known and ir_datasets.registry[parent].has_qrels() else []
    alike = difflib.get_close_matches(identifier, known, n=_MOST_NAMED, cutoff=0.5)
    return [*above, *(name for name in alike if name not in above)][:_MOST_NAMED]


def find_dataset(identifier: str, problem: str, remedy: str) -> Any:
    """The dataset with this id, as ir_datasets gives it; nothing is downloaded yet.

    Args:
        problem: what to say of an id that is unknown.
        remedy: what to say where no id is near.

    Raises:
        ValueError: the id is unknown; names the nearest ones.
    """
    import ir_datasets

    try:
        return ir_datasets.load(identifier)
    except (KeyError, ValueError) as error:
        nearest = nearest_ids(identifier)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else remedy
        raise ValueError(f"{problem}; {hint}") from error
