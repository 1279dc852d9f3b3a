"""The judgements of a split, without the texts of its collection."""

from __future__ import annotations

from prorank_jax.evaluation.names import PARTS, DatasetName, naming
from prorank_jax.judgements import judgements_of


def read_judgements(dataset: DatasetName) -> dict[str, dict[str, int]]:
    """Query id → document id → grade.

    Raises:
        ValueError: there is no such split, a flaw in its file, or ir_datasets cannot read it.
    """
    with naming(dataset):
        return judgements_of(dataset.source, dataset.split, PARTS)
