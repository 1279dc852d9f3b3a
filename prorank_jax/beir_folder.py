"""Reads a collection from a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

from prorank_jax.collection import Choice, Collection, check_collection
from prorank_jax.jsonl import PACKED, read_jsonl, read_lines, take_text
from prorank_jax.named_documents import Found, find_named, with_found
from prorank_jax.source_names import PROBE_SPLIT, TRAINED_ON, SourceFields
from prorank_jax.types import Document

LONGEST_GRADE = 9  # characters, so that it is an int32
INTEGER = re.compile(r"[+-]?[0-9]+")
LAYOUT = "a BEIR folder holds corpus.jsonl, queries.jsonl (or both as .gz) and qrels/<split>.tsv"
CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"


def is_of_layout(name: str) -> bool:
    """Whether a path in a folder is one that is read."""
    return name.removesuffix(PACKED) in (CORPUS, QUERIES) or name == QRELS or name.startswith(f"{QRELS}/")


def _unpacked_first(file: Path) -> Path:
    """As published, the files are packed; who unpacks one may keep both."""
    packed = file.with_name(file.name + PACKED)
    return packed if packed.is_file() and not file.is_file() else file


def beir_files(folder: Path, split: str, fields: SourceFields = TRAINED_ON) -> tuple[Path, Path, Path]:
    """The corpus, query and judgement files of a folder; the first two may be packed (`.gz`).

    Args:
        fields: that named the folder and the split.

    Raises:
        ValueError: one of them is missing; a missing split lists those there are. Or a split that is a path.
    """
    corpus, queries = _unpacked_first(folder / CORPUS), _unpacked_first(folder / QUERIES)
    qrels = folder / QRELS
    missing = [path.name for path in (corpus, queries) if not path.is_file()]
    missing += [] if qrels.is_dir() else ["qrels/"]
    if missing:
        raise ValueError(f"{fields.source}={str(folder)!r}: {', '.join(missing)} missing; {LAYOUT}")
    if split != Path(split).name:  # one split by two names would be trained on and measured
        raise ValueError(f"{fields.split}={split!r}: is a path; name a split, as the files of qrels/ are")
    judgements = qrels / f"{split}.tsv"
    if not judgements.is_file():
        splits = sorted(path.stem for path in qrels.glob("*.tsv"))
        there = f"choose one of {', '.join(splits)}" if splits else "qrels/ holds no .tsv file"
        if splits and fields.split == PROBE_SPLIT:
            there += ", or put the lines of some training queries into it, which are then not trained on"
        raise ValueError(f"{fields.split}={split!r}: {judgements} does not exist; {there}")
    return corpus, queries, judgements


def _take_id(record: dict[str, object], place: str) -> str:
    identifier = take_text(record, "_id", place)
    if not identifier:
        raise ValueError(f"{place}: _id is empty; give each record an id")
    return identifier


def _refuse_again(identifier: str, place: str, known: Container[str]) -> None:
    if identifier in known:
        raise ValueError(f"{place}: the id {identifier!r} was there before; ids must be unique")


def _documents(path: Path) -> Iterator[tuple[str, Document]]:
    """The place and the document of each line; ids may come again."""
    for place, record in read_jsonl(path):
        identifier = _take_id(record, place)
        title = take_text(record, "title", place) if record.get("title") is not None else ""
        yield place, Document(identifier, take_text(record, "text", place), title)


def read_documents(path: Path) -> dict[str, Document]:
    """Documents of a corpus.jsonl (`_id`, `text`, optional `title`), in the file's order."""
    documents: dict[str, Document] = {}
    for place, document in _documents(path):
        _refuse_again(document.id, place, documents)
        documents[document.id] = document
    return documents


def _find_documents(path: Path, judged: Collection, choose: Choice) -> Found:
    """Those of a corpus.jsonl that are named."""
    found = find_named((document for _, document in _documents(path)), judged, choose)
    if not found.repeated:
        return found
    seen: set[str] = set()
    for place, document in _documents(path):
        if hash(document.id) in found.repeated:
            _refuse_again(document.id, place, seen)
            seen.add(document.id)
    return found._replace(size=found.size + len(seen) - len(found.repeated))


def read_queries(path: Path) -> dict[str, str]:
    """Texts of a queries.jsonl (`_id`, `text`), in the file's order."""
    queries: dict[str, str] = {}
    for place, record in read_jsonl(path):
        identifier = _take_id(record, place)
        _refuse_again(identifier, place, queries)
        text = take_text(record, "text", place)
        if not text.strip():
            raise ValueError(f"{place}: the query {identifier!r} has an empty text; give it one")
        queries[identifier] = text
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements of a tab-separated `query-id corpus-id score` file, with or without its header.

    Raises:
        ValueError: not three columns, a grade that is no integer, or two grades for one pair.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        columns = line.split("\t")
        place = f"{path}, line {number}"
        if len(columns) != 3:
            raise ValueError(
                f"{place}: {len(columns)} columns; write query-id, corpus-id and score, separated by tabs"
            )
        query, document, grade = (column.strip() for column in columns)
        if number == 1 and not any(map(str.isdigit, grade)):
            continue  # the header
        if not INTEGER.fullmatch(grade):
            raise ValueError(f"{place}: the grade {grade!r} is not an integer; write 0, 1, 2 ...")
        if len(grade) > LONGEST_GRADE:
            raise ValueError(f"{place}: the grade {grade[:20]!r} is too large; write 0, 1, 2 ...")
        grades = qrels.setdefault(query, {})
        if grades.setdefault(document, int(grade)) != int(grade):
            raise ValueError(
                f"{place}: query {query!r} and document {document!r} have the grades "
                f"{grades[document]} and {grade}; keep one"
            )
    return qrels


def read_beir_folder(
    folder: Path,
    split: str,
    fields: SourceFields = TRAINED_ON,
    *,
    measured: bool = False,
    choose: Choice | None = None,
) -> Collection:
    """The collection of a BEIR folder with the judgements of one split.

    Args:
        fields: that named the folder and the split.
        measured: see `check_collection`.
        choose: the documents to read; None: all.

    Raises:
        ValueError: the folder is no BEIR folder, the split is missing, or a file has a flaw.
    """
    corpus, queries, judgements = beir_files(folder, split, fields)
    collection = Collection(
        name=f"{folder}/{split}", qrels=read_qrels(judgements), queries=read_queries(queries), documents={}
    )
    if choose is None:
        collection = replace(collection, documents=read_documents(corpus))
    else:
        collection = with_found(collection, _find_documents(corpus, collection, choose))
    remedy = f"check {corpus.name}, {queries.name} and {judgements}"
    return check_collection(collection, remedy, measured=measured)
