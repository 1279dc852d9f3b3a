"""Stops a run whose numbers have gone bad: steps in a row with updates that had to be skipped."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from prorank_jax.data import ExampleSet
from prorank_jax.launching import AgreedError
from prorank_jax.messages import name_a_few
from prorank_jax.processes import gather_texts
from prorank_jax.types import Array


class BadSteps:
    """Counts the steps in a row with an update skipped for a loss or gradient that was not finite."""

    def __init__(self, most: int, *, computes_in_float32: bool = False) -> None:
        """Gives up after `most` of them; float32 is advised where the run does not compute in it yet."""
        self._most = most
        self._also = "" if computes_in_float32 else ", or choose model.compute_dtype=float32"
        self._in_a_row = 0

    def saw(self, step: int, skipped: float, pairs: Callable[[], list[str]]) -> None:
        """Takes notice of a step; every process calls it with the same step and share.

        Args:
            skipped: share of the step's updates that were skipped.
            pairs: names what this process had in the batch.

        Raises:
            AgreedError: too many in a row; names the last batch's pairs.
        """
        self._in_a_row = self._in_a_row + 1 if skipped > 0 else 0
        if self._in_a_row < self._most:
            return
        everyone = [pair for text in gather_texts(json.dumps(pairs())) for pair in json.loads(text)]
        raise AgreedError(
            f"step {step}: loss or gradient was not finite in {self._in_a_row} steps in a row "
            f"(train.max_skipped={self._most}); the last batch held {name_a_few(everyone)}. A skipped "
            "update changes no parameters, and the last checkpoint is intact: look at those texts, or in a "
            f"new output_dir lower optimizer.learning_rate{self._also}"
        )


def pairs_of(examples: ExampleSet, positions: Array) -> list[str]:
    """`query/document` of the examples of a batch, fillers (-1) left out."""
    real = [examples[int(position)] for position in np.ravel(positions) if position >= 0]
    return [f"{example.query_id}/{example.document_id}" for example in real]
