"""The judgements of a split, without the texts of its collection."""

from __future__ import annotations

from prorank_jax.beir_folder import read_qrels
from prorank_jax.demo_collection import demo_collection
from prorank_jax.evaluation.names import PARTS, DatasetName, naming
from prorank_jax.irds import read_ir_judgements
from prorank_jax.local_sources import local_beir_files
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO


def read_judgements(dataset: DatasetName) -> dict[str, dict[str, int]]:
    """Query id → document id → grade.

    Raises:
        ValueError: there is no such split, a flaw in its file, or ir_datasets cannot read it.
    """
    with naming(dataset):
        if dataset.source == DEMO:
            return demo_collection(dataset.split, PARTS.split).qrels
        if dataset.source.startswith(CATALOGUE_PREFIX):
            return read_ir_judgements(dataset.source.removeprefix(CATALOGUE_PREFIX), PARTS.source)
        return read_qrels(local_beir_files(dataset.source, dataset.split, PARTS)[2])
