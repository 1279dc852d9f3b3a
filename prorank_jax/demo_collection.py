"""The built-in collection: short English texts made from tables of facts, with graded judgements.

Two kinds of questions are asked. One names an entity and asks for a fact ("What does the otter like to
eat?"); the other tells a fact and asks for the entity ("Which animal makes a meal of creepy-crawlies?").
They are worded unlike the documents, so BM25 finds the entity but seldom the fact. The grades:

- 3: the document is about the fact that is asked for.
- 2: it mentions the fact in passing, in a text about something else.
- 1: for a question that names an entity: it tells something else about this entity, or denies one of
  the possible answers and leaves the question open.
- 0: everything else. Judged so are the traps: documents about a thing that merely carries the entity's
  name, in the questions' own words; and for a question that seeks an entity, denials of the very fact.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Literal, TypeVar

from prorank_jax.collection import Collection, check_collection
from prorank_jax.demo_facts import Attribute, Domain
from prorank_jax.demo_facts_leisure import INSTRUMENTS, SPORTS
from prorank_jax.demo_facts_nature import ANIMALS, PRODUCE
from prorank_jax.demo_facts_people import CITIES, JOBS
from prorank_jax.demo_facts_things import MATERIALS, VEHICLES
from prorank_jax.source_names import TRAINED_ON
from prorank_jax.types import Document

DOMAINS: tuple[Domain, ...] = (ANIMALS, PRODUCE, MATERIALS, JOBS, CITIES, VEHICLES, INSTRUMENTS, SPORTS)
DEV_QUERIES, TEST_QUERIES = 80, 120
SPLITS = ("train", "dev", "test")
# A question that seeks an entity is asked only where few entities are its answer.
MOST_ANSWERS = 5

DIRECT_FRAMES = (
    "{X} {p}. Experts who have studied {x} for years all say the same.",
    "{X} {p}, and every good handbook on {x} says so on its first page.",
    "What do pupils learn about {x}? Early on they hear that {x} {p}.",
    "Ask anyone who knows {x} well, and this is what you will hear: {x} {p}.",
    "What matters most about {x} is this: {x} {p}. The rest is detail.",
    "The entry on {x} in our encyclopedia is brief: {x} {p}.",
    "How does one describe {x} in a few words? {X} {p}.",
    "It has been known for ages that {x} {p}, and recent studies of {x} confirm it.",
)
TOPIC_FRAMES = (
    "A word on {topic}: {x} {p}. That is what one has to know about {x}.",
    "When people ask about {topic}, the answer is simple: {x} {p}. So much for {x}.",
    "Our guide to {x} explains {topic} in one sentence: {x} {p}.",
    "There is no dispute about {topic}, since {x} {p}, as friends of {x} will confirm.",
)
PASSING_FRAMES = (
    "On the school trip the bus was late, but what we did hear is that {x} {p}, before rain sent us back.",
    "My uncle's letter about his new roof has a note on {x}; he does not say how he knows that {x} {p}.",
    "The quiz on {x} and other things raised money for a chapel; what won it was knowing that {x} {p}.",
    "In the novel two sisters quarrel about {x} until a stranger remarks that {x} {p}, and both laugh.",
    "Before the news a presenter mentioned {x}, said that {x} {p}, then read out what had won the lottery.",
    "The poster shows {x} by a fountain; a note on how it was sold adds that {x} {p}, and names the buyer.",
)
DENIAL_FRAMES = (
    "It is a myth that {x} {p}; whoever wrote that about {x} had confused two things.",
    "Some old books on {x} claim that {x} {p}, but this is simply wrong, however often one does read it.",
    "An advert with {x} in it once said that {x} {p}. It was false, and that is what a court decided.",
    "Do not believe the rumour that {x} {p}; a closer look at {x} shows how wrong that is.",
)
SEEKING_FRAMES = ("Which {kind} {p}?", "What {kind} {p}?", "Name any {kind} that {p}.")

Kind = Literal["direct", "passing", "denial", "trap"]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class _Text:
    """A document before it has its number; `value` is what it says or denies."""

    entity: str
    attribute: str
    value: str
    kind: Kind
    text: str


def _number(*key: str) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(key).encode()).digest()[:8], "big")


def _pick(choices: tuple[Choice, ...], *key: str) -> Choice:
    """One of the choices, by a hash of the key: adding a fact changes no other text."""
    return choices[_number(*key) % len(choices)]


def _fill(frame: str, entity: str, predicate: str) -> str:
    return frame.format(X=entity[0].upper() + entity[1:], x=entity, p=predicate)


def _bare_name(entity: str) -> str:
    return entity.removeprefix("the ").title()


def _fact_texts(entity: str, attribute: Attribute, value: str) -> list[_Text]:
    """Two direct documents, a passing one, a trap, and a denial where one is safe."""

    def make(kind: Kind, text: str, about: str = value) -> _Text:
        return _Text(entity, attribute.name, about, kind, text)

    first = _number(entity, attribute.name, "wordings") % 3
    wordings = [attribute.values[value][(first + offset) % 3] for offset in range(3)]
    topic = _pick(attribute.topics, entity, attribute.name, "topic").format(x=entity)
    headed = _pick(TOPIC_FRAMES, entity, attribute.name, "headed").replace("{topic}", topic)
    texts = [
        make("direct", _fill(headed, entity, wordings[0])),
        make("direct", _fill(_pick(DIRECT_FRAMES, entity, attribute.name, "direct"), entity, wordings[1])),
        make("passing", _fill(_pick(PASSING_FRAMES, entity, attribute.name, "passing"), entity, wordings[2])),
    ]
    if _number(entity, attribute.name, "has trap") % 3 == 0:
        trap = _pick(attribute.traps, entity, attribute.name, "trap").format(name=_bare_name(entity))
        texts.append(make("trap", trap, about=""))
    if attribute.exclusive:
        others = tuple(name for name in attribute.values if name != value)
        denied = _pick(others, entity, attribute.name, "denied")
        frame_text = _pick(DENIAL_FRAMES, entity, attribute.name, "denial")
        texts.append(make("denial", _fill(frame_text, entity, attribute.values[denied][first]), denied))
    return texts


def _grade_of_answer(text: _Text) -> int:
    return {"direct": 3, "passing": 2}.get(text.kind, 0)


def _grade_for_entity(text: _Text, attribute: str) -> int:
    """The grade for a question that names the text's entity and asks for this attribute."""
    if text.kind == "trap":
        return 0
    answers = text.attribute == attribute and text.kind != "denial"
    return _grade_of_answer(text) if answers else 1


def _domain_queries(domain: Domain, texts: list[_Text]) -> dict[str, dict[_Text, int]]:
    """Question → graded texts."""
    queries: dict[str, dict[_Text, int]] = {}
    for position, attribute in enumerate(domain.attributes):
        for entity in domain.entities:
            question = _pick(attribute.questions, entity, attribute.name, "question").format(x=entity)
            queries[question] = {
                text: _grade_for_entity(text, attribute.name) for text in texts if text.entity == entity
            }
        for value, wordings in attribute.values.items():
            answers = [entity for entity, values in domain.entities.items() if values[position] == value]
            if 1 <= len(answers) <= MOST_ANSWERS:
                frame = _pick(SEEKING_FRAMES, domain.kind, attribute.name, value)
                # Half of these questions can be matched by words, as half of the others can.
                wording = _pick((wordings[-1], wordings[0]), domain.kind, attribute.name, value, "asked")
                queries[frame.format(kind=domain.kind, p=wording)] = {
                    text: _grade_of_answer(text)
                    for text in texts
                    if (text.attribute, text.value) == (attribute.name, value)
                }
    return queries


@functools.cache
def _all_parts() -> tuple[dict[str, Document], dict[str, str], dict[str, dict[str, int]]]:
    texts_by_domain = {
        domain.kind: [
            text
            for entity, values in domain.entities.items()
            for attribute, value in zip(domain.attributes, values, strict=True)
            for text in _fact_texts(entity, attribute, value)
        ]
        for domain in DOMAINS
    }
    # Numbered in an order of hashes, so that ids and ties of a ranking tell nothing about the grade.
    texts = sorted(
        (text for group in texts_by_domain.values() for text in group), key=lambda t: _number(t.text)
    )
    ids = {text: f"d{number:04d}" for number, text in enumerate(texts, start=1)}
    asked = {
        question: graded
        for domain in DOMAINS
        for question, graded in _domain_queries(domain, texts_by_domain[domain.kind]).items()
    }
    queries, qrels = {}, {}
    for number, question in enumerate(sorted(asked, key=_number), start=1):
        queries[f"q{number:03d}"] = question
        qrels[f"q{number:03d}"] = {ids[text]: grade for text, grade in asked[question].items()}
    return {ids[text]: Document(ids[text], text.text) for text in texts}, queries, qrels


def demo_collection(split: str, field: str = TRAINED_ON.split) -> Collection:
    """The demo's documents and queries with the judgements of one split; the splits share no query.

    A document of grade 2 or 3 answers its question: train with `data.relevant_grade: 2`.

    Args:
        field: that named the split.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"{field}={split!r}: the demo has {', '.join(SPLITS)}; choose one of them")
    documents, queries, qrels = _all_parts()
    ids = list(queries)
    held_out = DEV_QUERIES + TEST_QUERIES
    members = {
        "dev": ids[:DEV_QUERIES],
        "test": ids[DEV_QUERIES:held_out],
        "train": ids[held_out:],
    }[split]
    # Copies: a caller may change what it gets, and the parts are shared between calls.
    collection = Collection(
        f"demo/{split}", dict(documents), dict(queries), {query: dict(qrels[query]) for query in members}
    )
    return check_collection(collection, "this is a flaw of prorank-jax; report it")
