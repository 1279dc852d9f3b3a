"""The judgements of a split, without the texts of its collection."""

from __future__ import annotations

from prorank_jax.beir_folder import read_qrels
from prorank_jax.demo_collection import demo_collection
from prorank_jax.irds import read_ir_judgements
from prorank_jax.local_sources import local_beir_files
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO, TRAINED_ON, SourceFields


def judgements_of(source: str, split: str, fields: SourceFields = TRAINED_ON) -> dict[str, dict[str, int]]:
    """Query id → document id → grade of a collection's split.

    Args:
        fields: that named the source and the split.

    Raises:
        ValueError: there is no such split, a flaw in its file, or ir_datasets cannot read it.
    """
    if source == DEMO:
        return demo_collection(split, fields.split).qrels
    if source.startswith(CATALOGUE_PREFIX):
        return read_ir_judgements(source.removeprefix(CATALOGUE_PREFIX), fields.source)
    return read_qrels(local_beir_files(source, split, fields)[2])
