"""Training queries made from documents, for collections with few judged queries.

Two kinds, both relevant to the very document they were taken out of: its title, asked of its body as in
content-based weak supervision (MacAvaney, Yates, Hui, Frieder, SIGIR 2019, arXiv 1707.00189), and one of
its sentences, asked of what is left, as in the inverse cloze task (Lee, Chang, Toutanova, ACL 2019, arXiv
1906.00300). As in round-trip filtering (Promptagator, arXiv 2209.11755) a query is kept only if BM25 finds
its document again.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.excerpts import split_sentences
from prorank_jax.long_work import tracked
from prorank_jax.negative_choice import choose_negatives
from prorank_jax.negatives import MINED_GRADE, index_documents
from prorank_jax.query_texts import plain
from prorank_jax.types import Candidate, Document, RankingGroup

PSEUDO_PREFIX = "pseudo:"
# Words of a query: fewer ask nothing, more are no question.
_FEWEST_WORDS, _MOST_WORDS = 5, 40

_log = logging.getLogger(__name__)


def make_query(document: Document, random_state: random.Random) -> tuple[str, Document] | None:
    """A query taken out of a document, and the document without it; None where nothing is fit.

    The title or a sentence at even odds, or whichever of them is fit: of 5 to 40 words, with at least 5 left
    in the document, which does not say the same again.
    """
    made = [_from_title(document), _from_sentence(document, random_state)]
    random_state.shuffle(made)
    return next((pair for pair in made if pair is not None), None)


def _is_fit(query: str, rest: str) -> bool:
    return _FEWEST_WORDS <= len(query.split()) <= _MOST_WORDS and len(rest.split()) >= _FEWEST_WORDS


def _from_title(document: Document) -> tuple[str, Document] | None:
    if not _is_fit(document.title, document.text) or _holds(document.text, document.title):
        return None
    return document.title.strip(), Document(document.id, document.text)


def _from_sentence(document: Document, random_state: random.Random) -> tuple[str, Document] | None:
    sentences = split_sentences(document.text)
    order = random_state.sample(range(len(sentences)), len(sentences))
    for place in order:
        rest = Document(document.id, _joined(sentences[:place] + sentences[place + 1 :]), document.title)
        if _is_fit(sentences[place], rest.text) and not _holds(rest.full_text, sentences[place]):
            return sentences[place], rest
    return None


def _holds(text: str, query: str) -> bool:
    """Whether a text says what is asked word for word: where all relevant ones did, no more is learned."""
    return plain(query) in plain(text)


def _joined(sentences: Sequence[str]) -> str:
    return " ".join(sentences)


def _alike(document: Document, query_is_title: bool) -> Document:
    """An irrelevant document in the form of the relevant one, which must not be told by its form."""
    if query_is_title:
        return Document(document.id, document.text)
    return Document(document.id, _joined(split_sentences(document.text)), document.title)


def make_pseudo_groups(
    collection: Collection,
    options: DataOptions,
    seed: int = 0,
    index: Bm25Index | None = None,
    held_out: Set[str] = frozenset(),
) -> list[RankingGroup]:
    """`options.pseudo_queries` groups of a query made from a document, that document, and negatives.

    The negatives are chosen as those of judged queries, without documents that hold the query word for word.
    Where a title is asked for, all candidates go without theirs, and where a sentence is, the sentences of
    all are joined by blanks, so that a missing title or line break tells nothing. Fewer groups come back,
    with a warning, only when the collection has no more. The choice depends on the seed and the collection
    only; judgements are not read.

    Args:
        index: `negatives.index_documents` of the collection; None: made here.
        held_out: `query_texts.plain` texts that no query may be.
    """
    if not options.pseudo_queries:
        return []
    ids = list(collection.documents)
    index = index or index_documents(collection)
    order = random.Random(f"{seed}:pseudo").sample(ids, len(ids))
    made, to_rank = itertools.tee(_made_queries(collection, order, seed))
    rankings = index.top_of_each((one.query for one in to_rank), options.negative_depth)
    found = (
        _make_group(collection, one, ids, [ids[position] for position, _ in ranking], options)
        for one, ranking in zip(made, rankings, strict=False)
    )
    usable = _unasked(filter(None, found), held_out)
    wanted = options.pseudo_queries
    groups = list(tracked(itertools.islice(usable, wanted), "making queries", wanted))
    if len(groups) < options.pseudo_queries:
        _log.warning(
            "data.pseudo_queries=%d: %s has enough for %d only",
            options.pseudo_queries,
            collection.name,
            len(groups),
        )
    return groups


def _unasked(groups: Iterable[RankingGroup], held_out: Set[str]) -> Iterator[RankingGroup]:
    """Those whose query nobody asks elsewhere: neither a held-out one nor an earlier one of these."""
    asked = set(held_out)
    for group in groups:
        text = plain(group.query)
        if text not in asked:
            asked.add(text)
            yield group


class _Made(NamedTuple):
    """A query, what is left of its document, and where its random choices go on."""

    identifier: str
    query: str
    rest: Document
    random_state: random.Random


def _made_queries(collection: Collection, order: Sequence[str], seed: int) -> Iterator[_Made]:
    for identifier in order:
        random_state = random.Random(f"{seed}:{PSEUDO_PREFIX}{identifier}")
        made = make_query(collection.documents[identifier], random_state)
        if made is not None:
            yield _Made(identifier, *made, random_state)


def _make_group(
    collection: Collection, made: _Made, ids: Sequence[str], ranking: Sequence[str], options: DataOptions
) -> RankingGroup | None:
    identifier, query, rest, random_state = made
    if identifier not in ranking:
        return None
    holders = [other for other in ranking if _holds(collection.documents[other].full_text, query)]
    grades = dict.fromkeys([identifier, *holders], options.relevant_grade)
    negatives = choose_negatives(grades, ranking, ids, options, random_state)
    if any(_holds(collection.documents[other].full_text, query) for other in negatives):
        return None  # so many hold it that BM25 did not rank them all
    is_title = bool(collection.documents[identifier].title and not rest.title)
    candidates = (
        Candidate(rest, options.relevant_grade),
        *(Candidate(_alike(collection.documents[other], is_title), MINED_GRADE) for other in negatives),
    )
    return RankingGroup(f"{PSEUDO_PREFIX}{identifier}", query, candidates)
