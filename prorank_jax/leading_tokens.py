"""The first tokens of texts, without encoding what lies far behind them: a 10 MB document is cut first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

# Ordinary text has one to five characters a token, so the first cut nearly always reaches far enough.
_CHARACTERS_PER_TOKEN = (8, 64)
# What follows a cut can change the word before it, and that word where the next one begins.
_UNSETTLED_WORDS = 2


def leading_tokens(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The first `limit` token ids of each text, encoded in parallel; fewer where a text has fewer.

    A text is cut before it is encoded, so a very long one costs little. The ids are those of the whole
    text: `Tokenizer`s encode words apart, from left to right, and the words at a cut are not used. The
    exception is a text whose first `limit` tokens take more than 64 characters each on average (a word of
    a million letters, or megabytes of spaces): of it only that many characters are read.

    Args:
        tokenizer: without post-processor, truncation and padding.
        texts: halves of surrogate pairs become `?`.
        limit: at least 1.
    """
    first, widest = (limit * characters for characters in _CHARACTERS_PER_TOKEN)
    whole = [place for place, text in enumerate(texts) if len(text) <= first]
    longer = [place for place, text in enumerate(texts) if len(text) > first]
    found: dict[int, list[int]] = {}
    encodings = tokenizer.encode_batch_fast(
        [_valid(texts[place]) for place in whole], add_special_tokens=False
    )
    found.update((place, encoding.ids[:limit]) for place, encoding in zip(whole, encodings, strict=True))
    for cut in (first, widest):
        tried = [place for place in longer if place not in found]
        pieces = [_valid(texts[place][:cut]) for place in tried]
        encodings = tokenizer.encode_batch(pieces, add_special_tokens=False)
        for place, encoding in zip(tried, encodings, strict=True):
            if cut == widest or len(texts[place]) <= cut or _settled(encoding) >= limit:
                found[place] = encoding.ids[:limit]
    return [found[place] for place in range(len(texts))]


def _settled(encoding: Encoding) -> int:
    """How many leading tokens stay the same whatever text follows."""
    words = [word or 0 for word in encoding.word_ids]  # ascending; None only after a post-processor
    return bisect_left(words, words[-1] - _UNSETTLED_WORDS + 1) if words else 0


def _valid(text: str) -> str:
    # JSON can hold halves of surrogate pairs, which no tokenizer accepts.
    return text.encode("utf-8", errors="replace").decode("utf-8")
