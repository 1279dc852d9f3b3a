"""Options of the data: what is trained on, and how prompts and their negatives are chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.excerpts import EXCERPT_STYLES
from prorank_jax.source_names import names_embedding_file


@dataclass(frozen=True)
class DataOptions:
    """Which collection is trained on, and how its prompts are built."""

    source: str = "demo"
    """`demo`, `ir_datasets:ID`, or a BEIR folder or a `.jsonl` file, here or at a gs:// URL."""
    split: str = "train"
    """The qrels file of a BEIR folder or of the demo; ids of ir_datasets name their own split."""
    max_queries: int = 0
    """At most so many queries to train on, drawn by the seed from those with a relevant document; 0: all."""
    probe_source: str = ""
    """The held-out collection; empty: the same as `source`."""
    probe_split: str = "dev"
    max_length: int = 224
    """Longest prompt in tokens, template included; longer documents are cut."""
    excerpts: str = "head"
    """Kept of a document that is too long: its `head`, or `key_sentences`, those that match the query."""
    buckets: tuple[int, ...] = ()
    """Static prompt lengths, ascending, the last equal to `max_length`; empty: chosen from the data."""
    instruction: str = ""
    system: str = ""
    """The system sentence; empty: the model's own."""
    relevant_grade: int = 1
    """A document of this grade or higher is relevant (answer `1`)."""
    relevant_score: float | None = None
    """Of pairs in a `.jsonl` file that have a score and no grade: of this score or higher is relevant."""
    negatives_per_query: int = 4
    """Irrelevant documents drawn for each query."""
    hard_negatives: float = 0.5
    """Share of those that come from the ranks `negatives_from` to `negative_depth` of BM25's ranking, or of
    `negatives_run`'s; the others are drawn at random."""
    negatives_run: str = ""
    """A TREC run of the training queries, here or at a gs:// URL, in place of BM25."""
    negatives_from: int = 1
    negative_depth: int = 50
    pseudo_queries: int = 0
    """Queries made from documents of the collection, beside the judged ones; see `pseudo_queries`."""
    teacher_scores: str = ""
    """A teacher's scores, for stage 2: the scores.jsonl of an evaluation, a TREC run, a TSV of query id,
    document id and score, or a .jsonl of scored pairs of texts."""
    teacher_depth: int = 0
    """Best documents of the teacher that become candidates though nobody judged them."""

    def __post_init__(self) -> None:
        require(bool(self.source), "data.source", self.source, "name a collection, e.g. demo")
        require_at_least("data.max_queries", self.max_queries, 0)
        require_at_least("data.max_length", self.max_length, 16)
        require_choice("data.excerpts", self.excerpts, EXCERPT_STYLES)
        ascending = list(self.buckets) == sorted(set(self.buckets)) and all(b > 0 for b in self.buckets)
        require(ascending, "data.buckets", self.buckets, "list positive lengths in ascending order")
        reaches = not self.buckets or self.buckets[-1] == self.max_length
        remedy = f"the last bucket must equal data.max_length={self.max_length}"
        require(reaches, "data.buckets", self.buckets, remedy)
        require_at_least("data.relevant_grade", self.relevant_grade, 1)
        self._check_relevant_score()
        require_at_least("data.negatives_per_query", self.negatives_per_query, 1)
        share_is_valid = 0.0 <= self.hard_negatives <= 1.0
        require(share_is_valid, "data.hard_negatives", self.hard_negatives, "a share, from 0 to 1")
        require_at_least("data.negative_depth", self.negative_depth, 1)
        require_at_least("data.negatives_from", self.negatives_from, 1)
        depth = self.negative_depth
        remedy = f"is behind data.negative_depth={depth}, the last rank taken; raise that"
        require(self.negatives_from <= depth, "data.negatives_from", self.negatives_from, remedy)
        remedy = (
            f"data.hard_negatives={self.hard_negatives} takes none from it; raise that, or with --stage both "
            "name it for one stage (--stage2.data.negatives_run)"
        )
        is_read = self.hard_per_query > 0
        require(is_read or not self.negatives_run, "data.negatives_run", self.negatives_run, remedy)
        require_at_least("data.pseudo_queries", self.pseudo_queries, 0)
        require_at_least("data.teacher_depth", self.teacher_depth, 0)
        useless = self.teacher_depth > 0 and not self.teacher_scores
        require(not useless, "data.teacher_depth", self.teacher_depth, "needs data.teacher_scores")

    def _check_relevant_score(self) -> None:
        name, score = "data.relevant_score", self.relevant_score
        require(score is None or math.isfinite(score), name, score, "must be a finite number")
        has_pairs = any(map(names_embedding_file, (self.source, self.probe_source)))
        remedy = (
            "only pairs of a .jsonl file have such scores; leave it out, or with --stage both name it for "
            "one stage (--stage2.data.relevant_score)"
        )
        require(score is None or has_pairs, name, score, remedy)

    @property
    def hard_per_query(self) -> int:
        """Negatives of each query that are not drawn at random."""
        return int(self.negatives_per_query * self.hard_negatives + 0.5)
