"""Sources of data on this machine: those that are here, and copies of those at a URL."""

from __future__ import annotations

from pathlib import Path

from prorank_jax.beir_folder import beir_files, is_of_layout
from prorank_jax.jsonl import PACKED
from prorank_jax.models.sources import cache_folder
from prorank_jax.remote_files import fetch_file, fetch_folder, open_url, url_slug, with_url_errors
from prorank_jax.source_names import TRAINED_ON, SourceFields, is_url

FETCHED = "collections"


def local_source(source: str, field: str = TRAINED_ON.source) -> str:
    """The source itself, or the folder or file here that a URL's was fetched into.

    Args:
        field: that named it.

    Raises:
        ValueError: a URL that cannot be reached, or with nothing there.
    """
    if not is_url(source):
        return source
    there = open_url(field, source)
    here = cache_folder() / FETCHED / url_slug(source)

    def is_read(name: str) -> bool:
        plain = name.removesuffix(PACKED)
        return is_of_layout(name) and (plain == name or not (there / plain).exists())

    def fetch() -> None:
        if there.is_dir():
            fetch_folder(there, here, is_read)
        else:
            fetch_file(there, here / there.name)

    with_url_errors(field, source, fetch, here=here)
    return str(here if there.is_dir() else here / there.name)


def local_beir_files(source: str, split: str, fields: SourceFields = TRAINED_ON) -> tuple[Path, Path, Path]:
    """`beir_files` of a folder that is here or at a URL.

    Raises:
        ValueError: a URL that cannot be reached, or a folder without such files or such a split.
    """
    return beir_files(Path(local_source(source, fields.source)), split, fields)
