"""Excerpts: whole sentences in order, within the room, and those the query asks about."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.excerpts import EXCERPT_VERSION, CountTokens, _best_first, key_sentences, split_sentences
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompts import PromptRenderer, make_renderer

TOKENIZER = load_tokenizer(str(Path(__file__).parent / "goldens" / "tiny_qwen"))
FILLER = " ".join(f"Filler number {n} tells of nothing much." for n in range(30))
ANSWER = "Cacti store their water in thick stems."
TITLE = "On the plants of dry places and how they live there"


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def excerpt(query: str, document: str, room: int, count_tokens: CountTokens = count_words) -> str:
    return key_sentences([(query, document)], [room], count_tokens)[0]


def renderer(excerpts: str = "key_sentences", max_length: int = 330) -> PromptRenderer:
    return make_renderer(TOKENIZER, max_length=max_length, excerpts=excerpts)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "no." Then (he left.) Then', ['He said "no."', "Then (he left.)", "Then"]),
        ("The S. aureus strain, i.e. this, vs. that of Smith et al. grew.", None),
        ("a value of 0.05 was kept", None),
        ("第一句。第二句\uff01", ["第一句。", "第二句\uff01"]),
        ("line\nother\n\nline", ["line", "other", "line"]),
        (" \n ", []),
    ],
)
def test_sentences_end_at_full_stops_and_not_after_initials(text: str, sentences: list[str] | None) -> None:
    assert split_sentences(text) == ([text] if sentences is None else sentences)


@given(st.text(max_size=400))
def test_no_word_is_lost_in_splitting(text: str) -> None:
    joined = "".join(split_sentences(text))
    assert "".join(joined.split()) == "".join(text.split())


def test_text_without_full_stops_is_cut_into_pieces() -> None:
    pieces = split_sentences("word " * 1000)
    assert max(count_words(pieces)) <= 60
    assert sum(count_words(pieces)) == 1000


def test_the_sentence_that_answers_is_found_wherever_it_stands() -> None:
    for place in (0, 7, 29):
        sentences = split_sentences(FILLER)
        sentences.insert(place, ANSWER)
        document = f"{TITLE}. {' '.join(sentences)}"
        kept = excerpt("How does a cactus store water?", document, 40)
        assert ANSWER in kept
        assert kept.startswith(TITLE)


def test_without_a_shared_word_the_start_is_kept() -> None:
    kept = excerpt("xylophone", FILLER, 40)
    assert FILLER.startswith(kept)
    assert 30 < len(kept.split()) <= 40


@given(st.integers(0, 2**32), st.integers(1, 80))
def test_an_excerpt_fits_and_keeps_the_order(seed: int, room: int) -> None:
    source = random.Random(seed)
    words = [
        source.choice(["tea", "boat", "horse", "piano", "a", "of"]) for _ in range(source.randrange(150))
    ]
    document = " ".join(word + source.choice(["", "", ".", "\n"]) for word in words)
    kept = excerpt("a tea boat", document, room)
    if len(words) <= room or kept == document:
        assert kept == document
        return
    assert len(kept.split()) <= room
    rest = iter(document.split())
    assert all(word in rest for word in kept.split())  # a subsequence


@pytest.mark.parametrize("most", [12, 120])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_the_lazy_choice_is_that_of_comparing_all_each_time(most: int, seed: int) -> None:
    source = random.Random(seed)
    query = set("abcdef")
    sentences = [
        set(source.choices("abcdefxyz", k=source.randrange(5))) for _ in range(source.randrange(1, most))
    ]
    frequency = Counter(word for sentence in sentences for word in sentence & query)
    weight = {word: math.log1p(len(sentences) / count) for word, count in frequency.items()}
    left, expected = [place for place, sentence in enumerate(sentences) if sentence & query], []
    while left and len(expected) < 64:
        gains = {place: sum(weight[word] for word in sorted(sentences[place] & query)) for place in left}
        best = max(left, key=lambda place: (gains[place], -place))
        expected.append(best)
        left.remove(best)
        for word in sentences[best] & query:
            weight[word] /= 2
    expected += sorted(
        left, key=lambda place: (-sum(weight[word] for word in sorted(sentences[place] & query)), place)
    )
    expected += [place for place, sentence in enumerate(sentences) if not sentence & query]
    assert _best_first(query, sentences) == expected


def test_scraps_do_not_replace_a_start_that_fills_the_room() -> None:
    long = [" ".join(f"word{number}x{place}" for place in range(45)) + "." for number in range(6)]
    document = "\n".join(["Overview.", *long, "See also word."])

    def count(texts):
        return [len(text.split()) for text in texts]

    assert key_sentences([("which word", document)], [40], count) == [document]
    roomy = key_sentences([("word3x1 word3x2", document)], [60], count)[0]
    assert roomy == f"Overview. {long[3]} See also word."


def test_one_endless_sentence_is_left_to_be_cut() -> None:
    assert excerpt("tea", "tea" * 500, 10, lambda texts: [len(text) for text in texts]) == "tea" * 500


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=100), st.text(max_size=600))
def test_prompts_never_grow_too_long(query: str, document: str) -> None:
    prompts = renderer()
    ids = prompts.render(query, document)
    assert len(ids) <= prompts.max_length
    head = renderer("head").render(query, document)
    if len(head) < prompts.max_length:  # nothing was cut
        assert ids == head


def test_a_prompt_holds_what_the_head_has_no_room_for() -> None:
    document = f"{TITLE}. {FILLER} {ANSWER} {FILLER}"
    query = "How does a cactus store water?"
    shown = {
        style: TOKENIZER.decode(renderer(style).render(query, document))
        for style in ("head", "key_sentences")
    }
    assert ANSWER in shown["key_sentences"]
    assert ANSWER not in shown["head"]


@pytest.mark.parametrize(
    "query", ["water", "How does a cactus, which has no leaves at all, store its water?"]
)
def test_an_excerpt_takes_the_room_that_its_query_leaves(query: str) -> None:
    """One token too many would cut the answer, which comes last; one too few would leave a sentence out."""
    title, answer, filler = (len(TOKENIZER.encode(text)) for text in (f"{TITLE}.", ANSWER, FILLER[:38]))
    counts = set()
    for max_length in range(210, 330, 3):
        beside = renderer("head", max_length)
        room = max_length - len(beside.render(query, ""))
        fillers = (room - title - answer) // filler
        if fillers < 1:
            continue
        counts.add(fillers)
        start = " ".join(f"Filler number {number} tells of nothing much." for number in range(fillers))
        expected = beside.render(query, f"{TITLE}. {start} {ANSWER}")
        got = renderer("key_sentences", max_length).render(query, f"{TITLE}. {FILLER} {ANSWER} {FILLER}")
        assert got == expected
    assert counts >= {1, 2, 3}


def test_prompts_of_one_call_are_those_of_single_calls() -> None:
    prompts = renderer()
    pairs = [(query, f"{TITLE}. {FILLER} {ANSWER}") for query in ("water?", "filler number 7", "")]
    assert prompts.render_batch(pairs) == [prompts.render(*pair) for pair in pairs]


def test_fingerprints_tell_the_styles_apart() -> None:
    assert renderer("head").fingerprint == make_renderer(TOKENIZER, max_length=330).fingerprint
    assert renderer("head").fingerprint != renderer().fingerprint


@pytest.mark.parametrize("sentence", ["tea boat. ", "Tea {0} boat {1}. ", "tea"])
def test_a_huge_document_costs_little(sentence: str) -> None:
    document = "".join(sentence.format(n % 17, n % 19) for n in range(500_000))
    began = time.process_time()
    assert len(renderer().render("tea boat " + " ".join(map(str, range(20))), document)) <= 330
    assert time.process_time() - began < 10  # seconds; it took 34 where every choice compared all sentences


@pytest.mark.parametrize("query", ["WATER", "How is WATERED land used?", "Is the water in it?"])
def test_words_are_compared_by_stem_without_case_and_stop_words(query: str) -> None:
    """There is room for one sentence beside the title, and one holds every stop word of the last query."""
    document = f"{TITLE}. {FILLER} It is in the one that was. {ANSWER} {FILLER}"
    assert excerpt(query, document, 18) == f"{TITLE}. {ANSWER}"


def test_what_decides_an_excerpt_is_pinned() -> None:
    """Only `EXCERPT_VERSION` tells fingerprints of other excerpts apart: whoever changes these raises it."""
    assert EXCERPT_VERSION == 2
    assert count_words(split_sentences("word " * 130)) == [60, 60, 10]
    first = " ".join(f"word{number}" for number in range(30))
    assert excerpt("water", f"{first}. {ANSWER} {FILLER}", 27) == f"{' '.join(first.split()[:20])} {ANSWER}"
    sparse = f"In dry places. {first}. {ANSWER}"
    assert excerpt("water", sparse, 20) == f"In dry places. {ANSWER}"  # half of the room
    assert excerpt("water", sparse, 21) == sparse
    read = (f"{TITLE}. {FILLER * 20}")[: 512 * 40 - len(ANSWER) - 1]
    assert ANSWER in excerpt("water", f"{read}\n{ANSWER} {FILLER}", 40)
    assert ANSWER not in excerpt("water", f"{read}\n\n{ANSWER} {FILLER}", 40)
