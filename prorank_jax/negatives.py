"""Turns a judged collection into ranking groups: its judgements, and mined negatives beside them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
from collections.abc import Iterable, Sequence

from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.long_work import tracked
from prorank_jax.messages import name_a_few
from prorank_jax.query_texts import plain
from prorank_jax.self_retrieval import is_the_query
from prorank_jax.types import Candidate, RankingGroup

MINED_GRADE = 0

_log = logging.getLogger(__name__)


def _sample(random_state: random.Random, pool: Sequence[str], count: int) -> list[str]:
    return random_state.sample(pool, min(count, len(pool)))


def _sample_outside(
    random_state: random.Random, pool: Sequence[str], taken: set[str], count: int
) -> list[str]:
    """`count` distinct ids of the pool that are not taken, or all of them when there are fewer."""
    if len(pool) < 2 * (count + len(taken)):
        return _sample(random_state, [identifier for identifier in pool if identifier not in taken], count)
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        identifier = pool[random_state.randrange(len(pool))]
        if identifier not in taken:
            chosen[identifier] = None
    return list(chosen)


def choose_negatives(
    grades: dict[str, int],
    bm25_ids: Sequence[str],
    all_ids: Sequence[str],
    options: DataOptions,
    random_state: random.Random,
) -> list[str]:
    """Ids of `negatives_per_query` irrelevant documents for one query, hard ones first.

    The hard share is drawn from the documents judged below `relevant_grade`, which are sure, and when
    those run out from BM25's best that nobody judged. The rest, and what is missing, is drawn at random
    from the unjudged documents. Fewer come back only when the collection has no more.
    """
    wanted = options.negatives_per_query
    hard_count = int(wanted * options.hard_negatives + 0.5)
    judged = sorted(identifier for identifier, grade in grades.items() if grade < options.relevant_grade)
    chosen = _sample(random_state, judged, hard_count)
    unjudged = [identifier for identifier in bm25_ids if identifier not in grades]
    chosen += _sample(random_state, unjudged, hard_count - len(chosen))
    chosen += _sample_outside(random_state, all_ids, {*grades, *chosen}, wanted - len(chosen))
    rest = [identifier for identifier in judged if identifier not in chosen]
    return chosen + _sample(random_state, rest, wanted - len(chosen))


def _order_candidates(grades: dict[str, int], negatives: list[str], relevant_grade: int) -> list[str]:
    best_first = sorted(grades, key=lambda identifier: (-grades[identifier], identifier))
    relevant = [identifier for identifier in best_first if grades[identifier] >= relevant_grade]
    chosen = set(negatives)
    others = [
        identifier
        for identifier in best_first
        if grades[identifier] < relevant_grade and identifier not in chosen
    ]
    return relevant + negatives + others


def _copies_of_relevant(collection: Collection, relevant_grade: int) -> dict[str, list[str]]:
    """Text → ids, of those texts of some query's relevant documents that more than one document has."""
    relevant = {
        collection.documents[identifier].full_text
        for grades in collection.qrels.values()
        for identifier, grade in grades.items()
        if grade >= relevant_grade
    }
    ids: dict[str, list[str]] = {}
    for identifier, document in collection.documents.items():
        text = document.full_text
        if text in relevant:
            ids.setdefault(text, []).append(identifier)
    return {text: alike for text, alike in ids.items() if len(alike) > 1}


def _documents_asked(collection: Collection, queries: Iterable[str]) -> dict[str, list[str]]:
    """`plain` text of a query → ids of the documents that say just that, as where questions are documents."""
    ids: dict[str, list[str]] = {plain(collection.queries[query_id]): [] for query_id in queries}
    for identifier, document in collection.documents.items():
        said = plain(document.full_text)
        if said in ids:
            ids[said].append(identifier)
    return ids


def look_relevant(collection: Collection, queries: Iterable[str], relevant_grade: int) -> dict[str, set[str]]:
    """Query id → documents that are no negatives of it: copies of its relevant ones, and the query itself.

    Evaluation drops the query itself, too, where it has the query's id.

    Args:
        queries: that the collection judges.
    """
    queries = list(queries)
    copies = _copies_of_relevant(collection, relevant_grade)
    asked = _documents_asked(collection, queries)
    found = {}
    for query_id in queries:
        alike = {
            copy
            for identifier, grade in collection.qrels[query_id].items()
            if grade >= relevant_grade
            for copy in copies.get(collection.documents[identifier].full_text, ())
        }
        itself, query = collection.documents.get(query_id), collection.queries[query_id]
        alike.update(asked[plain(query)])
        if itself is not None and is_the_query(query_id, query, itself.title, itself.text):
            alike.add(query_id)
        found[query_id] = alike
    return found


def index_documents(collection: Collection) -> Bm25Index:
    """BM25 over the documents, in the collection's order."""
    return Bm25Index([document.full_text for document in collection.documents.values()])


def _with_relevant_words(collection: Collection, relevant_grade: int) -> dict[str, dict[str, int]]:
    """The judgements of the queries with a relevant document, without relevant ones that hold no word."""
    empty = {
        document
        for grades in collection.qrels.values()
        for document, grade in grades.items()
        if grade >= relevant_grade and not collection.documents[document].full_text.strip()
    }
    if empty:
        name, some = collection.name, name_a_few(empty)
        _log.warning("%s: %d relevant documents without a word are left out: %s", name, len(empty), some)
    kept = {
        query: {
            document: grade
            for document, grade in grades.items()
            if grade < relevant_grade or document not in empty
        }
        for query, grades in collection.qrels.items()
    }
    return {
        query: grades
        for query, grades in kept.items()
        if any(grade >= relevant_grade for grade in grades.values())
    }


def make_groups(
    collection: Collection, options: DataOptions, seed: int = 0, index: Bm25Index | None = None
) -> list[RankingGroup]:
    """Every query that has a relevant document, with all its judged documents and mined negatives.

    The candidates of a group come in this order: the relevant ones, best grade first; then
    `negatives_per_query` irrelevant ones (see `choose_negatives`; the mined ones have grade 0); then the
    other judged ones. A document that is the query itself, as in ArguAna and Quora, or that has the very text
    of a relevant one under another id, is not mined; a relevant one without a word is no candidate. The
    choice for a query depends on the seed, its id and the collection only.

    Args:
        index: `index_documents` of the collection; None: made here, if negatives need it.

    Raises:
        ValueError: no query has a document of `relevant_grade` or higher.
    """
    judged = _with_relevant_words(collection, options.relevant_grade)
    left_out = len(collection.qrels) - len(judged)
    if not judged:
        highest = max((grade for grades in collection.qrels.values() for grade in grades.values()), default=0)
        raise ValueError(
            f"data.relevant_grade={options.relevant_grade}: none of the {left_out} queries of "
            f"{collection.name} has a relevant document; the highest grade there is {highest}"
        )
    if left_out:
        _log.warning("%s: %d queries without a relevant document are left out", collection.name, left_out)
    ids = list(collection.documents)
    needs_bm25 = options.negatives_per_query * options.hard_negatives >= 0.5
    if needs_bm25 and index is None:
        index = index_documents(collection)
    texts = [collection.queries[query_id] for query_id in judged]
    rankings: Iterable[list[tuple[int, float]]] = itertools.repeat([], len(texts))
    if needs_bm25 and index:
        rankings = tracked(index.top_of_each(texts, options.negative_depth), "mining negatives", len(texts))
    left_alone = look_relevant(collection, judged, options.relevant_grade)
    groups = []
    for (query_id, grades), text, ranking in zip(judged.items(), texts, rankings, strict=True):
        negatives = choose_negatives(
            dict.fromkeys(left_alone[query_id], options.relevant_grade) | collection.qrels[query_id],
            [ids[position] for position, _ in ranking],
            ids,
            options,
            random.Random(f"{seed}:{query_id}"),
        )
        candidates = tuple(
            Candidate(collection.documents[identifier], grades.get(identifier, MINED_GRADE))
            for identifier in _order_candidates(grades, negatives, options.relevant_grade)
        )
        groups.append(RankingGroup(query_id, text, candidates))
    return groups


def with_mined_negatives(
    groups: Sequence[RankingGroup], name: str, options: DataOptions, seed: int = 0
) -> list[RankingGroup]:
    """The groups, those without an irrelevant candidate with `negatives_per_query` mined ones.

    They are passages of the other groups, chosen as `make_groups` chooses documents; behind the group's own
    candidates, with grade 0 and no teacher's score.

    Args:
        name: what messages call the groups' source.
    """
    lacking = {
        group.query_id: {candidate.document.id: candidate.grade for candidate in group.candidates}
        for group in groups
        if all(candidate.grade >= options.relevant_grade for candidate in group.candidates)
    }
    if not lacking:
        return list(groups)
    _log.info("%s: %d queries bring no irrelevant passage; theirs are mined", name, len(lacking))
    passages = {c.document.id: c.document for group in groups for c in group.candidates}
    texts = {group.query_id: group.query for group in groups}
    made = make_groups(Collection(name, passages, texts, lacking), options, seed)
    mined = {group.query_id: group.candidates[len(lacking[group.query_id]) :] for group in made}
    return [
        dataclasses.replace(group, candidates=(*group.candidates, *mined.get(group.query_id, ())))
        for group in groups
    ]
