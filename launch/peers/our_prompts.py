"""The prompts of stage 1's benchmark as our side's batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from prorank_jax.prompt_rows import RowPlan, plan_of_one_length
from prorank_jax.types import Batch


def plan_of_rows(settings: dict[str, Any]) -> RowPlan | None:
    """Of one length: there is one program for all batches."""
    batches = [lengths_of(batch["prompts"]) for batch in settings["batches"]]
    return plan_of_one_length(batches, settings["width"], settings["ours"]["begins_alike"])


def lengths_of(prompts: list[list[int]]) -> np.ndarray:
    """Tokens of each prompt: [B] int32."""
    return np.array([len(prompt) for prompt in prompts], np.int32)


def padded_batch(
    prompts: list[list[int]], labels: list[int], width: int, row_plan: RowPlan | None = None
) -> Batch:
    """Prompts padded on the right to `width` tokens; a plan says how the step runs them without."""
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = lengths_of(prompts)
    return Batch(
        tokens=tokens,
        lengths=lengths,
        labels=np.array(labels, np.int32),
        examples=np.arange(len(prompts), dtype=np.int32),
        rows=None if row_plan is None else row_plan.rows_for(lengths, width),
    )
