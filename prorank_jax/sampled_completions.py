"""What the policy answered to some prompts of a step of stage 1, as a table for the log."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from rich.table import Table

from prorank_jax.metrics_log import completions_table
from prorank_jax.process_rows import rows_of_process
from prorank_jax.setup import Run
from prorank_jax.types import Batch

SHOWN_GROUPS = 4


def sampled_table(run: Run, step: int, batch: Batch, completions: jax.Array) -> Table:
    """The completions of the first relevant and irrelevant prompts that this process has in a batch.

    Args:
        batch: this process's rows.
        completions: of the whole batch: [B, G, L] int32, every row on this process.
    """
    rows = shown_rows(batch.labels)
    whole = rows_of_process(run.mesh, len(completions))[rows]
    tokens = np.asarray(completions)[whole]
    queries = [run.examples[int(batch.examples[row])].query_id for row in rows]
    labels = [int(batch.labels[row]) for row in rows]

    def decode(ids: Sequence[int]) -> str:
        return str(run.tokenizer.decode(list(ids)))

    return completions_table(step, tokens.tolist(), labels, queries, decode)


def shown_rows(labels: np.ndarray | jax.Array) -> np.ndarray:
    """The rows that are shown: at most two of each label, relevant ones first; [n] → int64 [at most 4]."""
    relevant, irrelevant = (np.flatnonzero(np.asarray(labels) == label) for label in (1, 0))
    return np.concatenate([relevant[: SHOWN_GROUPS // 2], irrelevant[: SHOWN_GROUPS // 2]])
