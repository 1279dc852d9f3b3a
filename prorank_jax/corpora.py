"""Loads collections and ranking groups from any source that a config or a command line may name."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from importlib.metadata import version
from pathlib import Path

from prorank_jax.beir_folder import beir_files, read_beir_folder, read_qrels, read_queries
from prorank_jax.collection import Choice, Collection, check_collection
from prorank_jax.config import DataOptions
from prorank_jax.demo_collection import demo_collection
from prorank_jax.embedding_jsonl import read_embedding_groups
from prorank_jax.irds import read_ir_dataset, read_ir_queries
from prorank_jax.judgements import judgements_of
from prorank_jax.local_sources import local_source
from prorank_jax.named_files import content_of
from prorank_jax.negatives import index_documents, make_groups, with_mined_negatives
from prorank_jax.negatives_run import read_negatives_run
from prorank_jax.pair_scores import PairScores, attach_pair_scores
from prorank_jax.pseudo_queries import make_pseudo_groups
from prorank_jax.query_choice import ALL_QUERIES, QueryChoice, choose_groups, choose_queries
from prorank_jax.source_names import (
    CATALOGUE_PREFIX,
    DEMO,
    TRAINED_ON,
    SourceFields,
    names_embedding_file,
)
from prorank_jax.teacher_run import Teacher, read_teacher
from prorank_jax.teacher_scores import add_teacher_candidates
from prorank_jax.types import RankingGroup

__all__ = [
    "Collection",
    "judged_queries",
    "load_collection",
    "load_groups",
    "queries_to_train_on",
    "source_fingerprint",
]

_log = logging.getLogger(__name__)

SOURCES = f"give {DEMO!r}, a BEIR folder, {CATALOGUE_PREFIX}ID, a .jsonl file, or a gs:// URL of one"


def _is_embedding_file(source: str) -> bool:
    return names_embedding_file(source) and Path(source).is_file()


def _reject_unknown(source: str, field: str) -> None:
    if not Path(source).exists():
        raise ValueError(f"{field}={source!r}: no such file or folder; {SOURCES}")
    if not Path(source).is_dir():
        raise ValueError(f"{field}={source!r}: not a kind of source; {SOURCES}")


def load_collection(
    source: str,
    split: str,
    fields: SourceFields = TRAINED_ON,
    *,
    measured: bool = False,
    choose: Choice | None = None,
) -> Collection:
    """The documents, queries and judgements of a source.

    Args:
        source: `demo`, a BEIR folder, or `ir_datasets:ID`.
        split: the judgements to load; ignored for ir_datasets, whose ids name their own split.
        fields: that named them.
        measured: it is measured on, not trained on; see `check_collection`.
        choose: the documents that must be read, out of files that may have millions; None: all.

    Raises:
        ValueError: an unknown source or split, or a flaw in its files.
    """
    source = local_source(source, fields.source)
    if source == DEMO:
        return demo_collection(split, fields.split)
    if source.startswith(CATALOGUE_PREFIX):
        return read_ir_dataset(
            source.removeprefix(CATALOGUE_PREFIX), fields.source, measured=measured, choose=choose
        )
    if _is_embedding_file(source):
        raise ValueError(
            f"{fields.source}={source!r}: a .jsonl file holds training groups, no collection; "
            "give a BEIR folder"
        )
    _reject_unknown(source, fields.source)
    return read_beir_folder(Path(source), split, fields, measured=measured, choose=choose)


def judged_queries(
    source: str, split: str, options: DataOptions, fields: SourceFields = TRAINED_ON
) -> dict[str, str]:
    """Query id → text of the queries of any source's split, without a look at a collection's documents.

    Args:
        options: that say what is relevant; its source and split are not read.
        fields: that named the source and the split.

    Raises:
        ValueError: an unknown source or split, or a flaw in its queries or judgements.
    """
    source = local_source(source, fields.source)
    if source == DEMO:
        collection = demo_collection(split, fields.split)
        return {query: collection.queries[query] for query in collection.qrels}
    if source.startswith(CATALOGUE_PREFIX):
        return read_ir_queries(source.removeprefix(CATALOGUE_PREFIX), fields.source)
    if _is_embedding_file(source):
        groups = read_embedding_groups(Path(source), split, options, fields=fields)
        return {group.query_id: group.query for group in groups}
    _reject_unknown(source, fields.source)
    _, queries, judgements = beir_files(Path(source), split, fields)
    texts = read_queries(queries)
    return {query: texts[query] for query in read_qrels(judgements) if query in texts}


def queries_to_train_on(
    source: str, split: str, options: DataOptions, seed: int, choice: QueryChoice
) -> set[str]:
    """Ids of the queries of a collection that `load_groups` makes judged groups of; looks at no documents.

    Of ir_datasets those that it may make groups of: which of their relevant documents are there, and so
    which queries are drawn, only the documents tell.

    Raises:
        ValueError: as `judged_queries`, or all are held out.
    """
    source, relevant_grade = local_source(source), options.relevant_grade
    if source.startswith(CATALOGUE_PREFIX):
        choice = dataclasses.replace(choice, most=None)
    texts = judged_queries(source, split, options)
    qrels = {query: grades for query, grades in judgements_of(source, split).items() if query in texts}
    given = Collection(f"{source}/{split}", {}, texts, qrels)
    chosen = choose_queries(given, choice, relevant_grade, seed).qrels
    return {query for query, grades in chosen.items() if max(grades.values()) >= relevant_grade}


def load_groups(
    source: str,
    split: str,
    options: DataOptions,
    seed: int = 0,
    fields: SourceFields = TRAINED_ON,
    choice: QueryChoice = ALL_QUERIES,
) -> list[RankingGroup]:
    """The ranking groups of any source.

    A collection gives every query with all its judged documents and mined negatives
    (`negatives.make_groups`), out of BM25's rankings or those of `options.negatives_run`, the scores of
    `options.teacher_scores`, and after those the queries made from its documents, whose negatives BM25 finds;
    a `.jsonl` file gives its own candidates and scores, mined negatives to queries that bring none, and
    queries made from the split's passages. Scores of pairs of texts are those of made queries too.

    Args:
        fields: that named the source and the split.
        choice: of the queries; none is made with a text that it holds out.

    Raises:
        ValueError: an unknown source or split, a flaw in its files, or no relevant document at all.
    """
    source = local_source(source, fields.source)
    if not _is_embedding_file(source):
        collection = load_collection(source, split, fields)
        collection = choose_queries(collection, choice, options.relevant_grade, seed)
        ranked = read_negatives_run(options, collection)
        index = index_documents(collection) if options.pseudo_queries else None  # once for both
        groups = make_groups(collection, options, seed, index, ranked)
        teacher = read_teacher(options, lambda: source_fingerprint(source, split, fields))
        if teacher is not None and not isinstance(teacher, PairScores):
            depth, relevant_grade = options.teacher_depth, options.relevant_grade
            groups = add_teacher_candidates(groups, teacher, collection, depth, relevant_grade)
        groups += make_pseudo_groups(collection, options, seed, index, choice.held_out)
        return attach_pair_scores(groups, teacher) if isinstance(teacher, PairScores) else groups
    _check_file_options(source, options)
    teacher = read_teacher(options, dict)
    groups = read_embedding_groups(Path(source), split, options, seed, fields, tell=True)
    least = options.relevant_grade
    kept = [group for group in groups if any(candidate.grade >= least for candidate in group.candidates)]
    if not kept:
        raise ValueError(
            f"{fields.source}={source!r}: no query of the split {split!r} has a relevant passage; add some "
            "as pos, or for pairs lower data.relevant_grade or data.relevant_score"
        )
    if len(kept) < len(groups):
        left_out = len(groups) - len(kept)
        _log.warning("%s/%s: %d queries without a relevant passage are left out", source, split, left_out)
    kept = choose_groups(kept, choice, f"{source}/{split}", seed)
    kept = with_mined_negatives(kept, f"{source}/{split}", options, seed)
    passages = {c.document.id: c.document for group in kept for c in group.candidates}
    made_from = Collection(f"{source}/{split}", passages, {}, {})
    kept += make_pseudo_groups(made_from, options, seed, held_out=choice.held_out)
    return attach_pair_scores(kept, teacher) if isinstance(teacher, PairScores) else kept


def _check_file_options(source: str, options: DataOptions) -> None:
    if options.negatives_run:
        raise ValueError(
            f"data.negatives_run={options.negatives_run!r}: {source} names no documents; write the negatives "
            "into its neg, or as pairs of label 0"
        )


def check_teacher(source: str, options: DataOptions) -> Teacher | None:
    """The scores that `load_groups` would use; refuses those that it would, but for queries and documents.

    Raises:
        ValueError: no such file of scores, a flaw in it, scores of other texts, or options that the source
            cannot follow.
    """
    source = local_source(source)
    if _is_embedding_file(source):
        _check_file_options(source, options)
    return read_teacher(options, lambda: source_fingerprint(source, options.split))


def own_scores(source: str, split: str, options: DataOptions) -> list[float]:
    """A teacher's scores that a `.jsonl` file has of the split's passages; none of another source.

    Raises:
        ValueError: as `load_groups` of such a file.
    """
    source = local_source(source)
    if not _is_embedding_file(source):
        if names_embedding_file(source):
            _reject_unknown(source, TRAINED_ON.source)
        return []
    groups = read_embedding_groups(Path(source), split, options)
    return [one.score for group in groups for one in group.candidates if one.score is not None]


def source_fingerprint(source: str, split: str, fields: SourceFields = TRAINED_ON) -> dict[str, str]:
    """What decides the content of a source: hashes of its files, or the version that generates it.

    Args:
        fields: that named the source and the split.

    Raises:
        ValueError: an unknown source or split.
    """
    source = local_source(source, fields.source)
    if source == DEMO:
        collection = check_collection(demo_collection(split, fields.split), "")
        content = repr((collection.documents, collection.queries, collection.qrels))
        return {DEMO: hashlib.sha256(content.encode()).hexdigest()}
    if source.startswith(CATALOGUE_PREFIX):
        return {source: version("ir_datasets")}
    if _is_embedding_file(source):
        return content_of([Path(source)])
    _reject_unknown(source, fields.source)
    return content_of(beir_files(Path(source), split, fields))
