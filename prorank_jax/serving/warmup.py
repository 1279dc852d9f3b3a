"""Pairs to score before the first request, so that it need not wait for a compiler."""

from __future__ import annotations

from collections.abc import Iterator

Pair = tuple[str, str]


def warmup_batches(kind: str, max_batch_pairs: int, max_length: int) -> Iterator[list[Pair]]:
    """Batches of pairs; every batch size the model may compile for, over `kind`'s lengths.

    Args:
        kind: `short`: documents of one word. `all`: also longer ones, up to prompts of `max_length`.
        max_batch_pairs: most pairs of a batch; sizes are its powers of two and itself.
        max_length: of a prompt in tokens; a document of so many words fills it.
    """
    for words in _word_counts(max_length) if kind == "all" else (1,):
        for pairs in reversed(_batch_sizes(max_batch_pairs)):
            # Pairs that are equal would be scored once.
            yield [("warm up", f"{number} " + "word " * (words - 1)) for number in range(pairs)]


def _batch_sizes(most: int) -> list[int]:
    return sorted({*(2**power for power in range(most.bit_length())), most})


def _word_counts(max_length: int) -> Iterator[int]:
    """Steps small enough to meet every width that prompts are padded to: 32 tokens apart, then a quarter."""
    words = 1
    while words < max_length:
        yield words
        words += max(16, words // 8)
    yield max_length
