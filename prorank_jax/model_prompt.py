"""Which prompt a model is asked with: what it was trained with, and what a caller wants instead."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from prorank_jax.excerpts import EXCERPT_STYLES
from prorank_jax.models.attention import check_head_size
from prorank_jax.pretrained import Pretrained, check_tokenizer, open_pretrained
from prorank_jax.prompt_settings import PromptSettings, read_prompt_settings
from prorank_jax.prompt_template import template_length
from prorank_jax.prompts import PromptRenderer, make_renderer

# What mxbai-rerank v2 allows query and document together, if the model has the positions.
DEFAULT_ROOM = 8192
_ANY = PromptSettings("", "", DEFAULT_ROOM)


def prompt_settings_of(
    model: Pretrained,
    *,
    max_length: int | None = None,
    instruction: str | None = None,
    system: str | None = None,
    excerpts: str | None = None,
) -> PromptSettings:
    """The prompt of a model: its run's, that of its `prorank.json`, or the defaults of other models.

    Those are its own system sentence, no instruction, 8192 tokens of query and document, as in
    mxbai-rerank, or all its positions, and the heads of documents that are too long.

    Args:
        max_length, instruction, system, excerpts: instead of the model's; None: the model's.

    Raises:
        ValueError: a `prorank.json` that cannot be read, a value that cannot work, or a length beyond
            the model's positions.
    """
    own = own_settings(model)
    # Values of other types are refused before one of them is used.
    given: dict[str, Any] = {
        "system": system,
        "instruction": instruction,
        "max_length": max_length,
        "excerpts": excerpts,
    }
    replace(_ANY, **{name: value for name, value in given.items() if value is not None})
    if system is None:
        system = own.system if own else ""
    if instruction is None:
        instruction = own.instruction if own else ""
    if excerpts is None:
        excerpts = own.excerpts if own else EXCERPT_STYLES[0]
    if max_length is None:
        max_length = own.max_length if own else _default_length(model, system)
    positions = model.config.max_positions
    if max_length > positions:
        raise ValueError(f"max_length={max_length}: {model.source} has {positions} positions; give no more")
    return PromptSettings(system, instruction, max_length, excerpts)


def open_with_prompts(
    source: str, *, attention: str = "xla", **prompt: Any
) -> tuple[Pretrained, PromptRenderer]:
    """A model that is to score, its weights not yet read, and the renderer of its prompts.

    By itself a check, for work of hours that needs the model late.

    Args:
        prompt: what `prompt_settings_of` takes instead of the model's own.

    Raises:
        ValueError: there is no such model, or its files do not belong together, or an argument cannot work
            with it, such as a length too short for its prompt.
    """
    model = open_pretrained(source)
    check_head_size(attention, model.config.head_dim)
    check_tokenizer(model)
    return model, make_renderer(model.tokenizer, **asdict(prompt_settings_of(model, **prompt)))


def own_settings(model: Pretrained) -> PromptSettings | None:
    """The prompt that a model brings: its run's or its `prorank.json`'s; None: neither is there.

    Raises:
        ValueError: a `prorank.json` that cannot be read.
    """
    if model.run is None:
        return read_prompt_settings(model.path)
    data = model.run.data
    return PromptSettings(data.system, data.instruction, data.max_length, data.excerpts)


def _default_length(model: Pretrained, system: str) -> int:
    return min(DEFAULT_ROOM + template_length(model.tokenizer, system), model.config.max_positions)
