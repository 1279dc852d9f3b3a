"""A tokenizer built from a GGUF file's own vocabulary: no second download, no torch.

transformers' GGUF conversion ignores the pre-tokenizer that the file names, and so splits digits and
spaces otherwise than the model was trained with (SmolLM2: "a  1"); here an unknown name is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prorank_jax.models.gguf_header import read_header

_log = logging.getLogger(__name__)

# A contraction | a word with at most one sign before it | digits | signs | line breaks | other spaces.
_WORDS_AND_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, split_first: Any = None, own_pattern: bool = True) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_pattern)
    return pre_tokenizers.Sequence([split_first, byte_level]) if split_first else byte_level


def _split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return _byte_level(
        split_first=pre_tokenizers.Split(Regex(pattern), behavior="isolated"), own_pattern=False
    )


# By the name in `tokenizer.ggml.pre`; each is the published pre-tokenizer of that family.
PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _byte_level,
    "smollm": lambda: _byte_level(split_first=pre_tokenizers.Digits(individual_digits=True)),
    "qwen2": lambda: _split_by(_WORDS_AND_DIGITS.format(digits=r"\p{N}")),
    "llama-bpe": lambda: _split_by(_WORDS_AND_DIGITS.format(digits=r"\p{N}{1,3}")),
}
PRE_TOKENIZERS["default"] = PRE_TOKENIZERS["gpt-2"]
_COMPOSES_UNICODE = {"qwen2"}
_PREFERS_WHOLE_WORDS = {"llama-bpe"}  # Llama 3 takes a word that is a token as that token, merges or not.


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file with a byte-level BPE vocabulary.

    Raises:
        ValueError: no GGUF file, another kind of vocabulary, or a pre-tokenizer that is not known.
    """
    fields = _read_fields(path)
    tokens: list[str] = fields["ggml.tokens"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_build_backend(path, fields),
        chat_template=fields.get("chat_template"),
        clean_up_tokenization_spaces=False,
        **_special_tokens(tokens, fields),
    )


def _read_fields(path: Path) -> dict[str, Any]:
    """The `tokenizer.*` entries of the file, without that prefix."""
    start = "tokenizer."
    metadata = read_header(path).metadata
    fields = {name.removeprefix(start): value for name, value in metadata.items() if name.startswith(start)}
    kind, pre = fields.get("ggml.model"), fields.setdefault("ggml.pre", "default")
    if kind != "gpt2" or not fields.get("ggml.tokens") or not fields.get("ggml.merges"):
        raise ValueError(
            f"model.source={str(path)!r}: its vocabulary is of kind {kind!r}, and only byte-level BPE "
            f"('gpt2', with merges) can be read; use the model's Hugging Face folder instead"
        )
    if pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"model.source={str(path)!r}: unknown pre-tokenizer {pre!r}, not one of "
            f"{', '.join(PRE_TOKENIZERS)}; use the model's Hugging Face folder instead"
        )
    if pre == "default":
        _log.warning("%s does not name its pre-tokenizer: taking GPT-2's", path)
    return fields


def _build_backend(path: Path, fields: dict[str, Any]) -> Tokenizer:
    tokens, pre = fields["ggml.tokens"], fields["ggml.pre"]
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"model.source={str(path)!r}: its vocabulary holds a token twice")
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ", 1)) for merge in fields["ggml.merges"]],
            ignore_merges=pre in _PREFERS_WHOLE_WORDS,
        )
    )
    if pre in _COMPOSES_UNICODE:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(_added_tokens(tokens, fields))
    return backend


def _added_tokens(tokens: list[str], fields: dict[str, Any]) -> list[AddedToken]:
    """The control and user-defined tokens, which are looked for in the text before it is split."""
    kinds = fields.get("ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    return [
        AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]


def _special_tokens(tokens: list[str], fields: dict[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... as far as the file names them."""
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {short: fields.get(f"ggml.{long}_token_id") for short, long in keys.items()}
    return {f"{short}_token": tokens[index] for short, index in ids.items() if index is not None}
