"""Shortens a document to the sentences that a query asks about, where a prompt has no room for all of it.

Reading the blocks of a document that match the query best, not its first ones, is what KeyB2 does for long
documents (Li, Gaussier, Li, Zhou 2024, arXiv 2411.06254). Here the blocks are sentences, the match is
lexical, and nothing is read but the query and the document, so that training, evaluation, server and a
single call cut a document alike.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import Stemmer

EXCERPT_STYLES = ("head", "key_sentences")
# Raised by hand when the same texts give other excerpts than before.
EXCERPT_VERSION = 2
# Longest text that is read, for each token of room: beyond it a document is cut as `head` cuts it.
_CHARACTERS_PER_TOKEN = 512
# Text without full stops (tables, lower-cased speech) is cut into pieces of so many words.
_LONGEST_SENTENCE = 60
# The start of a document that is always kept: most titles, and the subject of most first sentences.
_LEAD = 20
# Share of the room that an excerpt must fill to be better than the document's own start.
_LEAST_FILLED = 0.5
# Sentences chosen one after the other: more than most prompts have room for.
_MOST_COMPARED = 64
# How much a query word still counts that a chosen sentence holds already.
_SEEN_BEFORE = 0.5
# A full stop ends a sentence unless it follows an initial or one of the commonest abbreviations.
_SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))(?<!\b[A-Z]\.)(?<!\bvs\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bal\.)\s+"
    r"|(?<=[\u3002\uff01\uff1f])|\n+"  # CJK full stop, exclamation and question mark
)
_WORD = re.compile(r"\w+")
# Words that say nothing about what is asked for: Lucene's list, which BM25 uses here too.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there "
        "these they this to was will with"
    )
)

CountTokens = Callable[[Sequence[str]], Sequence[int]]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, none empty; long ones without a full stop are cut into pieces."""
    sentences: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        sentences += [
            " ".join(words[start : start + _LONGEST_SENTENCE])
            for start in range(0, len(words), _LONGEST_SENTENCE)
        ]
    return sentences


def _stems(text: str, stemmer: Stemmer.Stemmer) -> set[str]:
    words = (word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)
    return set(stemmer.stemWords(list(words)))


def _best_first(query: set[str], sentences: Sequence[set[str]]) -> list[int]:
    """All sentences, those that add most to what the chosen ones say of the query first.

    A query word weighs log(1 + n / df), with n sentences of which df hold it: a word on every line tells
    nothing about one of them. Of equal sentences the earlier one comes first. After `_MOST_COMPARED` the
    others are taken by what they add to those.
    """
    frequency = Counter(word for words in sentences for word in words & query)
    weight = {word: math.log1p(len(sentences) / count) for word, count in frequency.items()}
    # Sentences that share the same words with the query are compared as one.
    alike: dict[tuple[str, ...], list[int]] = {}
    for place in reversed(range(len(sentences))):
        alike.setdefault(tuple(sorted(sentences[place] & query)), []).append(place)
    unrelated = alike.pop((), [])

    def standing(words: tuple[str, ...]) -> tuple[float, int, tuple[str, ...]]:
        return -sum(weight[word] for word in words), alike[words][-1], words

    left = [standing(words) for words in alike]
    heapq.heapify(left)
    chosen: list[int] = []
    while left and len(chosen) < _MOST_COMPARED:
        words = heapq.heappop(left)[-1]
        now = standing(words)
        if left and now > left[0]:  # gains only fall, so what stays ahead of the next is the best
            heapq.heappush(left, now)
            continue
        chosen.append(alike[words].pop())
        for word in words:
            weight[word] *= _SEEN_BEFORE
        if alike[words]:
            heapq.heappush(left, standing(words))
    others = sorted((standing(words)[0], place) for _, _, words in left for place in alike[words])
    return chosen + [place for _, place in others] + unrelated[::-1]


def key_sentences(
    pairs: Sequence[tuple[str, str]], rooms: Sequence[int], count_tokens: CountTokens
) -> list[str]:
    """Of each document, its start and the sentences that match its query best, in the document's order.

    A document of at most as many tokens as it has room comes back as it is. Of a longer one the first words
    are kept, for they name the subject; then the best sentences are taken as long as they fit; what is left
    is filled from the start. Where sentences are so long that half of the room would be empty, or the first
    words do not fit, the document comes back whole: its own start says more. The result may have more tokens
    than there is room, for whoever joins it to cut.

    Args:
        pairs: (query, document) texts. Without a word that both have, the result is the document's start;
            a document that is cut is cut after 512 characters for each token of its room.
        rooms: tokens there are for each document.
        count_tokens: how many tokens each of some texts has; above the largest room it may stop counting.
    """
    texts = [
        document[: room * _CHARACTERS_PER_TOKEN] for (_, document), room in zip(pairs, rooms, strict=True)
    ]
    found = [document for _, document in pairs]
    long = [place for place, count in enumerate(count_tokens(texts)) if count > rooms[place]]
    sentences = [_with_lead(split_sentences(texts[place])) for place in long]
    # In one call, which encodes in parallel.
    lengths = iter(count_tokens([sentence for of_one in sentences for sentence in of_one]))
    stemmer = Stemmer.Stemmer("english")
    for place, of_one in zip(long, sentences, strict=True):
        query = _stems(pairs[place][0], stemmer)
        order = _best_first(query, [_stems(sentence, stemmer) for sentence in of_one])
        counts = list(itertools.islice(lengths, len(of_one)))
        kept = _fitting(order, counts, rooms[place])
        filled = sum(counts[number] for number in kept)
        if 0 in kept and filled >= _LEAST_FILLED * rooms[place]:
            found[place] = " ".join(of_one[number] for number in kept)
    return found


def _with_lead(sentences: Sequence[str]) -> list[str]:
    """The sentences, the first one in two where it is longer than the start that is always kept."""
    words = sentences[0].split() if sentences else []
    return [" ".join(part) for part in (words[:_LEAD], words[_LEAD:]) if part] + list(sentences[1:])


def _fitting(order: Sequence[int], lengths: Sequence[int], room: int) -> list[int]:
    """The first one and then those of the order that still fit, ascending."""
    kept: list[int] = []
    for place in dict.fromkeys([0, *order] if lengths else ()):
        if lengths[place] <= room:
            kept.append(place)
            room -= lengths[place]
    return sorted(kept)
