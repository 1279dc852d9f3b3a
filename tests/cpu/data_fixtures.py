"""Small collections, files and a renderer for the tests of data; no model and no tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from collections import namedtuple
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from prorank_jax.config import DataOptions
from prorank_jax.examples import build_examples
from prorank_jax.records import Example, make_index
from prorank_jax.types import RankingGroup

REAL_DATA = Path(os.environ.get("PRORANK_DATA") or Path(__file__).parents[3] / "shared" / "data")


class WordRenderer:
    """One token a word, between a head and a tail: a stand-in for `prompts.PromptRenderer`."""

    def __init__(self, max_length: int = 96) -> None:
        self.max_length = max_length
        self.fixed_length = 4
        self.fingerprint = f"words-{max_length}"

    def render(self, query: str, document: str) -> list[int]:
        words = f"{query} {document}".split()[: self.max_length - self.fixed_length]
        return [1, 2, *(int(hashlib.sha256(word.encode()).hexdigest()[:4], 16) for word in words), 3, 4]

    def render_batch(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        return [self.render(*pair) for pair in pairs]


class MemoryExamples:
    """Examples of given lengths, labels and queries, without files; token j of example i is 1000 i + j."""

    name = "memory"

    def __init__(
        self, lengths: Iterable[int], labels: Iterable[int], queries: Iterable[int] | None = None
    ) -> None:
        self.lengths = np.array(list(lengths), np.int32)
        self.labels = np.array(list(labels), np.int32)
        numbers = range(len(self.lengths)) if queries is None else queries
        self.queries = np.array(list(numbers), np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, position: int) -> Example:
        tokens = 1000 * int(position) + np.arange(self.lengths[position], dtype=np.int32)
        label = int(self.labels[position])
        return Example(f"q{position}", f"d{position}", tokens, label, label)


class ListedExamples:
    """Built examples without files."""

    name = "listed"

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        for name, values in make_index(examples).items():
            setattr(self, name, values)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> Example:
        return self._examples[int(position)]


def listed(groups: Sequence[RankingGroup], renderer: WordRenderer | None = None) -> Any:
    """The examples of every candidate, as stage 2 reads them."""
    renderer = renderer or WordRenderer()
    return ListedExamples(build_examples(groups, renderer, DataOptions(), every_candidate=True))


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


WORDS = ("apple", "river", "stone", "cloud", "tiger", "piano", "bread", "ocean", "candle", "garden")


def write_beir_folder(folder: Path, queries: int = 10, split: str = "train") -> Path:
    """A valid folder: query i asks for word i; document i-0 (grade 2) and i-1 (grade 1) hold it."""
    (folder / "qrels").mkdir(parents=True)
    numbers = range(queries)
    names = [f"{WORDS[i % 10]}{i // 10}" for i in numbers]
    write_jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": f"d{i}-{part}", "title": f"about {names[i]}", "text": f"{names[i]} text number {part}"}
            for i in numbers
            for part in range(3)
        ],
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"what is {names[i]}"} for i in numbers])
    rows = [f"q{i}\td{i}-{part}\t{2 - part}\n" for i in numbers for part in range(2)]
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


def ask_otherwise(folder: Path, split: str, word: str) -> None:
    """Gives the folder another split: each query of `train` with another question word, and its judgements.

    A query that is the same in training and in a held-out split would be left out of training.
    """
    train, file = (folder / "qrels" / "train.tsv").read_text(), folder / "queries.jsonl"
    (folder / "qrels" / f"{split}.tsv").write_text(train.replace("\nq", f"\n{split}-q"))
    asked = [line for line in file.read_text().splitlines(keepends=True) if '"what is' in line]
    others = "".join(asked).replace('"q', f'"{split}-q').replace("what is", f"{word} is")
    file.write_text(file.read_text() + others)


Doc = namedtuple("Doc", "doc_id title text")
Query = namedtuple("Query", "query_id text")
Qrel = namedtuple("Qrel", "query_id doc_id relevance")


def fake_ir_dataset(**changes: Any) -> SimpleNamespace:
    """What `ir_datasets.load` gives; a part that is None is not there."""
    parts = {
        "docs": [Doc("a", "T", "tea"), Doc("b", "", "milk")],
        "queries": [Query("1", "what is tea")],
        "qrels": [Qrel("1", "a", 2)],
    } | changes
    methods = {f"has_{name}": lambda part=part: part is not None for name, part in parts.items()}
    methods |= {f"{name}_iter": lambda part=part: iter(part) for name, part in parts.items()}
    return SimpleNamespace(**methods)
