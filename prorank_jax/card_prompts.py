"""What a model card says of figures whose prompts are not those of its folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from prorank_jax.excerpts import EXCERPT_STYLES
from prorank_jax.model_history import Evaluation
from prorank_jax.prompt_settings import PromptSettings

# Of a model that names none; how long its prompts were, only the evaluation says.
_DEFAULTS = {"system": "", "instruction": "", "excerpts": EXCERPT_STYLES[0]}
_EMPTY = {"system": "the model's own", "instruction": "none"}


def exported_otherwise(own: PromptSettings | None, folder: PromptSettings) -> str:
    """A sentence where an export gave a model other prompts than its own; empty where it did not.

    Args:
        own: what its run was trained with, or the folder that was exported remembers; None: it names none.
        folder: what its export remembers.
    """
    before, after = asdict(own or folder), asdict(folder)
    changed = [
        f"`{name}` {_shown(name, value)} instead of {_shown(name, before[name])}"
        for name, value in after.items()
        if value != before[name]
    ]
    if not changed:
        return ""
    return (
        f"After that the model was exported with other prompts than before: {', '.join(changed)}. Figures "
        "above are of the prompts that they were measured with."
    )


def measured_otherwise(evaluation: Evaluation, own: PromptSettings | None, folder: PromptSettings) -> str:
    """A sentence where an evaluation had other prompts than the folder's; empty where it had the same.

    Args:
        own: of the model that was measured, which the evaluation had where it was told nothing else; None:
            it names none.
        folder: what its export remembers.
    """
    measured: dict[str, Any] = {**(asdict(own) if own else _DEFAULTS), **evaluation.chosen}
    if evaluation.max_length is not None:
        measured["max_length"] = evaluation.max_length
    other = [
        f"`{name}` {_shown(name, measured[name])}"
        for name, value in asdict(folder).items()
        if measured.get(name, value) != value
    ]
    if not other:
        return ""
    return f"Its prompts were not this folder's, which give other scores: {', '.join(other)}."


def _shown(name: str, value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != "" else _EMPTY[name]
