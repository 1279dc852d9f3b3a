"""A tokenizer for texts that others wrote: nothing in them is taken for a control token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def plain_text_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer that knows no control or added token, so that no text can spell one.

    For text without such tokens it gives the ids the tokenizer itself gives.
    (`split_special_tokens=True` would still match added tokens that are not special: `<tool_call>`.)

    Raises:
        ValueError: a tokenizer without a Rust backend, or one in which a text can spell a control token all
            the same, as in a Unigram vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f"model.source: {type(tokenizer).__name__} is no fast tokenizer; save one as tokenizer.json"
        )
    parts: dict[str, Any] = json.loads(backend.to_str())
    added = {token["content"] for token in parts["added_tokens"]}
    parts |= {
        "added_tokens": [],
        "post_processor": None,
        "decoder": None,
        "truncation": None,
        "padding": None,
    }
    if parts["model"]["type"] == "BPE":
        _remove_from_bpe(parts["model"], added)
    plain = Tokenizer.from_str(json.dumps(parts))
    for token, identifier in ((token, backend.token_to_id(token)) for token in sorted(added)):
        if len(token) > 1 and identifier in plain.encode(token, add_special_tokens=False).ids:
            raise ValueError(
                f"model.source: the {parts['model']['type']} tokenizer lets any text spell its control token "
                f"{token!r}; use a model with a BPE tokenizer"
            )
    return plain


def _remove_from_bpe(model: dict[str, Any], added: set[str]) -> None:
    """Takes tokens out of a BPE vocabulary, with the merges that need them; ids of the others stay."""
    removed = {token for token in added if len(token) > 1}  # a single character spells ordinary text
    model["vocab"] = {token: index for token, index in model["vocab"].items() if token not in removed}
    model["merges"] = [
        (left, right) for left, right in model["merges"] if removed.isdisjoint((left, right, left + right))
    ]
    if model["unk_token"] in removed:
        model["unk_token"] = None
