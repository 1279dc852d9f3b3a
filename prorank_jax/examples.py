"""Ranking groups → tokenized examples, written once and opened again."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prorank_jax.config import DataOptions
from prorank_jax.corpora import load_groups, source_fingerprint
from prorank_jax.embedding_file import begins_with_labelled_positive
from prorank_jax.input_checks import Pair
from prorank_jax.local_sources import local_source
from prorank_jax.long_work import tracked
from prorank_jax.named_files import teacher_fingerprint
from prorank_jax.negatives_run import ranking_content
from prorank_jax.query_choice import ALL_QUERIES, QueryChoice
from prorank_jax.records import Example, RecordReader, ensure_records, read_index
from prorank_jax.source_names import TRAINED_ON, SourceFields, names_embedding_file
from prorank_jax.storage_faults import obstacle
from prorank_jax.types import Candidate, RankingGroup

# Raised by hand when the same inputs give other records than before.
CONTENT_VERSION = 8
# A tokenizer encodes many texts in parallel: on two cores that halves the time.
PROMPTS_AT_ONCE = 512

_Chosen = tuple[RankingGroup, tuple[Candidate, ...]]


class Renderer(Protocol):
    """What `prompts.make_renderer` makes."""

    max_length: int
    fingerprint: str

    def render_batch(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """The token ids of each (query, document)'s prompt, at most `max_length`."""
        ...


class ExampleSet:
    """Tokenized examples on disk, with their lengths and labels in memory.

    Attributes:
        name: what messages call it.
        lengths, labels, grades, scores, starts, queries, documents: of each example; see
            `records.make_index`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Opens a folder that `ensure_records` made.

        Raises:
            ValueError: it is damaged.
        """
        self.name = name
        self.folder = folder
        with _refusing_damage(folder):
            index = read_index(folder)
            self._reader = RecordReader(folder)
            counts = {len(self._reader), *map(len, index.values())}
            if len(counts) > 1:
                raise ValueError(f"its files hold {' and '.join(map(str, sorted(counts)))} examples")
        self.lengths, self.labels, self.grades = index["lengths"], index["labels"], index["grades"]
        self.scores, self.starts, self.queries = index["scores"], index["starts"], index["queries"]
        self.documents = index["documents"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, position: int) -> Example:
        if not 0 <= position < len(self):
            raise IndexError(f"{self.name}: {len(self)} examples, none at {position}")
        with _refusing_damage(self.folder):
            return self._reader[int(position)]

    @functools.cached_property
    def digest(self) -> str:
        """A hash of what decides the examples and of their lengths, labels, grades and scores.

        Made once: several processes compare it, and each checkpoint keeps it.
        """
        digest = hashlib.sha256(self.folder.name.encode())
        for values in (self.lengths, self.labels, self.grades, self.scores, self.starts, self.queries):
            digest.update(values.tobytes())
        return digest.hexdigest()[:12]


@contextmanager
def _refusing_damage(folder: Path) -> Iterator[None]:
    """Whatever numpy and ArrayRecord raise for a file that is damaged becomes one error."""
    try:
        yield
    except Exception as error:
        is_of_tfds = isinstance(error, OSError) and error.errno is None
        if obstacle(error) is not None and not is_of_tfds:
            raise
        told = " ".join(str(error).split()).partition(". ")[0][:200]  # numpy goes on to advise unsafe loading
        raise ValueError(
            f"{folder}: damaged ({type(error).__name__}: {told}); delete it, and it is made again"
        ) from error


def common_start(prompts: Sequence[Sequence[int] | np.ndarray]) -> int:
    """Tokens that all of the prompts start with."""
    shortest = min(map(len, prompts))
    heads = np.array([prompt[:shortest] for prompt in prompts])
    differing = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differing[0]) if len(differing) else shortest


def choose_candidates(
    group: RankingGroup, options: DataOptions, every_candidate: bool
) -> tuple[Candidate, ...]:
    """All candidates, or the relevant ones and the first `negatives_per_query` others."""
    if every_candidate:
        return group.candidates
    relevant = [candidate for candidate in group.candidates if candidate.grade >= options.relevant_grade]
    others = [candidate for candidate in group.candidates if candidate.grade < options.relevant_grade]
    return (*relevant, *others[: options.negatives_per_query])


def build_examples(
    groups: Sequence[RankingGroup], renderer: Renderer, options: DataOptions, every_candidate: bool = False
) -> list[Example]:
    """Renders the candidates of each group that `choose_candidates` picks.

    Raises:
        ValueError: no groups, or a prompt longer than the renderer's limit.
    """
    if not groups:
        raise ValueError("no ranking groups to make examples from; give a collection with judgements")
    chosen = [(group, choose_candidates(group, options, every_candidate)) for group in groups]
    shown = tracked(chosen, "rendering prompts", len(chosen))
    return [
        example
        for together in _batched(shown, PROMPTS_AT_ONCE)
        for example in _render(together, renderer, options)
    ]


def _batched(chosen: Iterable[_Chosen], prompts: int) -> Iterator[list[_Chosen]]:
    """Whole groups, with at least so many candidates together where there are enough."""
    batch: list[_Chosen] = []
    count = 0
    for group, candidates in chosen:
        batch.append((group, candidates))
        count += len(candidates)
        if count >= prompts:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _render(chosen: Sequence[_Chosen], renderer: Renderer, options: DataOptions) -> Iterator[Example]:
    # Two texts that share nothing: with them, the start is the same place of the template in every query.
    texts = [["a", "b", *(candidate.document.full_text for candidate in own)] for _, own in chosen]
    prompts = iter(
        renderer.render_batch(
            [
                (group.query, text)
                for (group, _), of_group in zip(chosen, texts, strict=True)
                for text in of_group
            ]
        )
    )
    for (group, candidates), of_group in zip(chosen, texts, strict=True):
        rendered = list(itertools.islice(prompts, len(of_group)))
        start = common_start(rendered)
        for candidate, prompt in zip(candidates, rendered[2:], strict=True):
            _check_length(group, candidate, prompt, renderer)
            yield _example(group, candidate, prompt, start, options)


def _check_length(group: RankingGroup, candidate: Candidate, prompt: list[int], renderer: Renderer) -> None:
    if not 1 <= len(prompt) <= renderer.max_length:
        raise ValueError(
            f"data.max_length={renderer.max_length}: the prompt of query {group.query_id!r} "
            f"and document {candidate.document.id!r} has {len(prompt)} tokens; check the renderer"
        )


def _example(
    group: RankingGroup, candidate: Candidate, prompt: list[int], start: int, options: DataOptions
) -> Example:
    return Example(
        query_id=group.query_id,
        document_id=candidate.document.id,
        tokens=np.asarray(prompt, np.int32),
        label=int(candidate.grade >= options.relevant_grade),
        grade=candidate.grade,
        score=math.nan if candidate.score is None else candidate.score,
        document_start=min(start, len(prompt) - 1),
        document_key=hashlib.sha256(candidate.document.full_text.encode(errors="surrogatepass")).digest(),
    )


def _pairs_content(source: str, options: DataOptions, fields: SourceFields) -> dict[str, Any]:
    """What labelled pairs add; runs on other files go on with the examples that they have.

    Once, a label beside `positive` was passed over, so those of such files are others now.
    """
    if not names_embedding_file(source):
        return {}
    content: dict[str, Any] = {}
    if options.relevant_score is not None:
        content["relevant_score"] = options.relevant_score
    if begins_with_labelled_positive(Path(local_source(source, fields.source))):
        content["labels"] = "read"
    return content


def _deciding_content(
    source: str,
    split: str,
    options: DataOptions,
    renderer: Renderer,
    seed: int,
    every_candidate: bool,
    fields: SourceFields,
    choice: QueryChoice,
) -> dict[str, Any]:
    return {
        **choice.deciding_content(),
        **ranking_content(options),
        **_pairs_content(source, options, fields),
        "content_version": CONTENT_VERSION,
        "source": source,
        "split": split,
        "source_content": source_fingerprint(source, split, fields),
        "renderer": renderer.fingerprint,
        "max_length": renderer.max_length,
        "relevant_grade": options.relevant_grade,
        "negatives_per_query": options.negatives_per_query,
        "hard_negatives": options.hard_negatives,
        "negative_depth": options.negative_depth,
        "pseudo_queries": options.pseudo_queries,
        "seed": seed,
        "every_candidate": every_candidate,
        "teacher": teacher_fingerprint(options),
        "teacher_depth": options.teacher_depth,
        "bm25s": version("bm25s"),
        "PyStemmer": version("PyStemmer"),
    }


def open_dataset(
    source: str,
    split: str,
    options: DataOptions,
    renderer: Renderer,
    folder: str | Path,
    seed: int,
    every_candidate: bool = False,
    fields: SourceFields = TRAINED_ON,
    choice: QueryChoice = ALL_QUERIES,
) -> ExampleSet:
    """The examples of one split of a source, tokenized and written under `folder` at the first call.

    Args:
        source: any source of `corpora.load_groups`; `options.source` and `probe_source` are not read.
        split: its split; likewise.
        folder: the cache that holds one folder for each content.
        seed: decides which negatives are mined.
        every_candidate: keep all judged documents, as lists of graded documents need them.
        fields: that named the source and the split.
        choice: of the queries.

    Raises:
        ValueError: an unknown source or split, a flaw in its files, or no relevant document.
    """
    deciding = _deciding_content(source, split, options, renderer, seed, every_candidate, fields, choice)

    def make_examples() -> list[Example]:
        groups = load_groups(source, split, options, seed, fields, choice)
        return build_examples(groups, renderer, options, every_candidate)

    return ExampleSet(f"{source}/{split}", ensure_records(Path(folder), deciding, make_examples))
