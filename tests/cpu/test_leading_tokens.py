"""The first tokens of a cut text are those of the whole text, and what is cut off is never read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import prorank_jax.leading_tokens
from prorank_jax.leading_tokens import leading_tokens
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.plain_text import plain_text_tokenizer

GOLDENS = Path(__file__).parent / "goldens"
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _train(normalizer: normalizers.Normalizer | None, *steps: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        ["the document stores water 1234 times ...... it's\n\n    x = 水を"], trainer
    )
    return tokenizer


TOKENIZERS = {
    "qwen": plain_text_tokenizer(load_tokenizer(str(GOLDENS / "tiny_qwen"))),
    "smollm2": _train(
        None, pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    ),
    "llama3": _train(
        None,
        pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ),
    "one word": _train(normalizers.NFC()),  # a merge may cross everything
}
PIECES = ("the document", " water", "it's", "12345", ".....", " ", "   ", "\n", "\r\n", "\t", "e", "\u0301")
PIECES += ("水を", "저장", "👍🏽", "عربي", "\u00a0", "\ud83d", "{x}", "||", "'", "'l")
texts = st.lists(st.sampled_from(PIECES), max_size=150).map("".join)


def encode_whole(tokenizer: Tokenizer, text: str) -> list[int]:
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return tokenizer.encode(valid, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["qwen", "smollm2", "llama3"])
@pytest.mark.parametrize("first_cut", [1, 3, 8])
@settings(max_examples=60, deadline=None)
@given(st.lists(texts, max_size=4), st.integers(1, 60))
def test_equals_the_whole_text(name: str, first_cut: int, batch: list[str], limit: int) -> None:
    tokenizer = TOKENIZERS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prorank_jax.leading_tokens, "_CHARACTERS_PER_TOKEN", (first_cut, 1000))
        found = leading_tokens(tokenizer, batch, limit)
    assert found == [encode_whole(tokenizer, text)[:limit] for text in batch]


def test_a_cut_that_changes_the_words_before_it_is_seen() -> None:
    """The guard is needed: encoding the cut text alone would give other tokens."""
    tokenizer, limit = TOKENIZERS["qwen"], 16
    text = "the document of " * 40
    naive = encode_whole(tokenizer, text[: 2 * limit])[:limit]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prorank_jax.leading_tokens, "_CHARACTERS_PER_TOKEN", (2, 64))
        found = leading_tokens(tokenizer, [text], limit)[0]
    assert found == encode_whole(tokenizer, text)[:limit] != naive


class CountingTokenizer:
    """Counts the characters that reach a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name: str):
        def encode(texts: list[str], **options: bool):
            self.characters += sum(map(len, texts))
            return getattr(self.tokenizer, name)(texts, **options)

        return encode


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("piece", ["a", " ", "the document ", "水", "7", ".", "\n", "e\u0301"])
def test_ten_megabytes_are_not_read(name: str, piece: str) -> None:
    text = piece * (10_000_000 // len(piece.encode()))
    counting, limit = CountingTokenizer(TOKENIZERS[name]), 200
    found = leading_tokens(counting, [text], limit)[0]  # type: ignore[arg-type]
    assert len(found) == limit
    assert counting.characters <= (8 + 64) * limit


def test_no_texts_and_empty_texts() -> None:
    assert leading_tokens(TOKENIZERS["qwen"], [], 5) == []
    assert leading_tokens(TOKENIZERS["qwen"], ["", "water"], 5)[0] == []
