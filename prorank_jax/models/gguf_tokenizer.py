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
_SPECIAL_TOKENS = {
    "bos_token": "ggml.bos_token_id",
    "eos_token": "ggml.eos_token_id",
    "unk_token": "ggml.unknown_token_id",
    "pad_token": "ggml.padding_token_id",
}
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
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"model.source={str(path)!r}: unknown pre-tokenizer {pre!r}, not one of "
            f"{', '.join(PRE_TOKENIZERS)}; use the model's Hugging Face folder instead"
        )
    if pre == "default":
        _log.warning("%s does not name its pre-tokenizer: taking GPT-2's", path)
    _check_lists(path, fields)
    return fields


def _check_lists(path: Path, fields: dict[str, Any]) -> None:
    """Refuses what would be read wrongly, or only fail inside a parser that does not say where."""

    def require(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise ValueError(
                f"model.source={str(path)!r}: tokenizer.{name} must be {wanted}; convert the model again, "
                "or use its Hugging Face folder"
            )

    tokens: Any = fields.get("ggml.tokens")
    merges: Any = fields.get("ggml.merges")
    kinds: Any = fields.get("ggml.token_type")
    require(_all_are(str, tokens), "ggml.tokens", "a list of texts")
    require(len(set(tokens)) == len(tokens), "ggml.tokens", "a list that does not hold a token twice")
    pairs = _all_are(str, merges) and all(len(merge.split(" ")) == 2 for merge in merges)
    require(pairs, "ggml.merges", "a list of two tokens and a blank between them each")
    # Without it the chat format's marks would be split like any text.
    each = _all_are(int, kinds) and len(kinds) == len(tokens)
    require(each, "ggml.token_type", f"a list of {len(tokens)} whole numbers, one for each token")
    require(isinstance(fields.get("chat_template", ""), str), "chat_template", "a text")
    for name in _SPECIAL_TOKENS.values():
        index = fields.get(name)
        known = index is None or (type(index) is int and 0 <= index < len(tokens))
        require(known, name, f"a whole number below {len(tokens)}, the number of tokens")


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _build_backend(path: Path, fields: dict[str, Any]) -> Tokenizer:
    tokens, pre = fields["ggml.tokens"], fields["ggml.pre"]
    try:
        model = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in fields["ggml.merges"]],
            ignore_merges=pre in _PREFERS_WHOLE_WORDS,
        )
    except Exception as error:  # the Rust parser raises plain Exception
        raise ValueError(f"model.source={str(path)!r}: its vocabulary cannot be read ({error})") from error
    backend = Tokenizer(model)
    if pre in _COMPOSES_UNICODE:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(_added_tokens(tokens, fields))
    return backend


def _added_tokens(tokens: list[str], fields: dict[str, Any]) -> list[AddedToken]:
    """The control and user-defined tokens, which are looked for in the text before it is split."""
    return [
        AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, fields["ggml.token_type"], strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]


def _special_tokens(tokens: list[str], fields: dict[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... as far as the file names them."""
    ids = {token: fields.get(name) for token, name in _SPECIAL_TOKENS.items()}
    return {token: tokens[index] for token, index in ids.items() if index is not None}
