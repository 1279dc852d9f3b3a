"""Turns a judged collection into ranking groups: its judgements, and mined negatives beside them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
from collections.abc import Iterable, Mapping, Sequence

from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.few_negatives import tell_of_few
from prorank_jax.long_work import tracked
from prorank_jax.messages import name_a_few
from prorank_jax.negative_choice import choose_negatives, count_hard
from prorank_jax.query_texts import plain
from prorank_jax.self_retrieval import is_the_query
from prorank_jax.types import Candidate, RankingGroup

MINED_GRADE = 0

_log = logging.getLogger(__name__)


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


def _rankings(
    collection: Collection,
    queries: Sequence[str],
    options: DataOptions,
    index: Bm25Index | None,
    ranked: Mapping[str, Sequence[str]] | None,
) -> Iterable[Sequence[str]]:
    """For each query the ids that its hard negatives come from, best first; none where none are wanted."""
    if not options.hard_per_query:
        return itertools.repeat((), len(queries))
    if ranked is not None:
        return [ranked[query] for query in queries]
    ids, texts = list(collection.documents), [collection.queries[query] for query in queries]
    found = (index or index_documents(collection)).top_of_each(texts, options.negative_depth)
    return (
        [ids[position] for position, _ in best] for best in tracked(found, "mining negatives", len(texts))
    )


def make_groups(
    collection: Collection,
    options: DataOptions,
    seed: int = 0,
    index: Bm25Index | None = None,
    ranked: Mapping[str, Sequence[str]] | None = None,
    *,
    takes_run: bool = True,
) -> list[RankingGroup]:
    """Every query that has a relevant document, with all its judged documents and mined negatives.

    The candidates of a group come in this order: the relevant ones, best grade first; then
    `negatives_per_query` irrelevant ones (see `choose_negatives`; the mined ones have grade 0); then the
    other judged ones. A document that is the query itself, as in ArguAna and Quora, or that has the very text
    of a relevant one under another id, is not mined; a relevant one without a word is no candidate. The
    choice for a query depends on the seed, its id and the collection only.

    Args:
        index: `index_documents` of the collection; None: made here, if negatives need it.
        ranked: query id → document ids, best first, which take the place of BM25's; of all these queries.
        takes_run: `data.negatives_run` may name such rankings of this collection, as a warning then says.

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
    rankings = _rankings(collection, list(judged), options, index, ranked)
    left_alone = look_relevant(collection, judged, options.relevant_grade)
    groups, counts = [], []
    for (query_id, grades), ranking in zip(judged.items(), rankings, strict=True):
        known = dict.fromkeys(left_alone[query_id], options.relevant_grade) | collection.qrels[query_id]
        counts.append(count_hard(known, ranking, options))
        random_state = random.Random(f"{seed}:{query_id}")
        negatives = choose_negatives(known, ranking, ids, options, random_state)
        candidates = tuple(
            Candidate(collection.documents[identifier], grades.get(identifier, MINED_GRADE))
            for identifier in _order_candidates(grades, negatives, options.relevant_grade)
        )
        groups.append(RankingGroup(query_id, collection.queries[query_id], candidates))
    tell_of_few(collection.name, counts, options, is_bm25=ranked is None, takes_run=takes_run)
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
    _log.warning("%s: %d queries bring no irrelevant passage; theirs are mined", name, len(lacking))
    passages = {c.document.id: c.document for group in groups for c in group.candidates}
    texts = {group.query_id: group.query for group in groups}
    made = make_groups(Collection(name, passages, texts, lacking), options, seed, takes_run=False)
    mined = {group.query_id: group.candidates[len(lacking[group.query_id]) :] for group in made}
    return [
        dataclasses.replace(group, candidates=(*group.candidates, *mined.get(group.query_id, ())))
        for group in groups
    ]
