"""Ranking groups → tokenized examples, written once and opened again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.progress import track

from prorank_jax.config import DataOptions
from prorank_jax.corpora import load_groups, source_fingerprint
from prorank_jax.records import Example, RecordReader, ensure_records, read_index
from prorank_jax.types import RankingGroup

# Raised by hand when the same inputs give other records than before.
CONTENT_VERSION = 1


class Renderer(Protocol):
    """What `prompts.make_renderer` makes."""

    max_length: int
    fingerprint: str

    def render(self, query: str, document: str) -> list[int]:
        """The prompt's token ids, at most `max_length`."""
        ...


class ExampleSet:
    """Tokenized examples on disk, with their lengths and labels in memory.

    Attributes:
        name: what messages call it.
        lengths: int32 [examples] tokens of each prompt.
        labels: int32 [examples] 1 where the document is relevant.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Opens a folder that `ensure_records` made."""
        self.name = name
        self.folder = folder
        self.lengths, self.labels = read_index(folder)
        self._reader = RecordReader(folder)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, position: int) -> Example:
        return self._reader[int(position)]


def build_examples(groups: Sequence[RankingGroup], renderer: Renderer, options: DataOptions) -> list[Example]:
    """Renders every relevant candidate of each group, and the first `negatives_per_query` others.

    Raises:
        ValueError: no groups, or a prompt longer than the renderer's limit.
    """
    if not groups:
        raise ValueError(
            "data.source: no ranking groups to make examples from; give a collection with judgements"
        )
    examples = []
    for group in track(groups, "rendering prompts", transient=True, disable=not sys.stderr.isatty()):
        relevant = [candidate for candidate in group.candidates if candidate.grade >= options.relevant_grade]
        others = [candidate for candidate in group.candidates if candidate.grade < options.relevant_grade]
        for candidate in (*relevant, *others[: options.negatives_per_query]):
            tokens = np.asarray(renderer.render(group.query, candidate.document.full_text), np.int32)
            if not 1 <= len(tokens) <= renderer.max_length:
                raise ValueError(
                    f"data.max_length={renderer.max_length}: the prompt of query {group.query_id!r} "
                    f"and document {candidate.document.id!r} has {len(tokens)} tokens; check the renderer"
                )
            label = int(candidate.grade >= options.relevant_grade)
            examples.append(Example(group.query_id, candidate.document.id, tokens, label, candidate.grade))
    return examples


def _deciding_content(
    source: str, split: str, options: DataOptions, renderer: Renderer, seed: int
) -> dict[str, Any]:
    return {
        "content_version": CONTENT_VERSION,
        "source": source,
        "split": split,
        "source_content": source_fingerprint(source, split),
        "renderer": renderer.fingerprint,
        "max_length": renderer.max_length,
        "relevant_grade": options.relevant_grade,
        "negatives_per_query": options.negatives_per_query,
        "hard_negatives": options.hard_negatives,
        "negative_depth": options.negative_depth,
        "seed": seed,
        "bm25s": version("bm25s"),
        "PyStemmer": version("PyStemmer"),
    }


def open_dataset(
    source: str, split: str, options: DataOptions, renderer: Renderer, folder: str | Path, seed: int
) -> ExampleSet:
    """The examples of one split of a source, tokenized and written under `folder` at the first call.

    Args:
        source: any source of `corpora.load_groups`; `options.source` and `probe_source` are not read.
        split: its split; likewise.
        folder: the cache that holds one folder for each content.
        seed: decides which negatives are mined.

    Raises:
        ValueError: an unknown source or split, a flaw in its files, or no relevant document.
    """
    deciding = _deciding_content(source, split, options, renderer, seed)

    def make_examples() -> list[Example]:
        return build_examples(load_groups(source, split, options, seed), renderer, options)

    return ExampleSet(f"{source}/{split}", ensure_records(Path(folder), deciding, make_examples))
