"""The model of an evaluation, as the folder of an earlier call names and knows it."""

from __future__ import annotations

import dataclasses
from typing import Any

from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation.output import read_settings
from prorank_jax.model_identity import known_as, model_identity


def as_named_before(options: EvaluationOptions) -> EvaluationOptions:
    """The options with the model's name as their folder has it, where both name the same files."""
    earlier = read_settings(options.folder).get("model")
    return dataclasses.replace(options, model=known_as(options.model, earlier), output_dir=options.folder)


def identity_as_before(options: EvaluationOptions) -> dict[str, Any]:
    """What tells the model from others, in the words of its folder where an earlier version wrote those."""
    return model_identity(options.model, read_settings(options.folder))
