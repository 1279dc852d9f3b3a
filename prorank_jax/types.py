"""The values that travel between the parts: texts on the host, batches and rollouts on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a collection; `title` may be empty."""

    id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and text joined by one space, as BEIR gives them to a reranker."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document judged (or mined) for one query; `score` is a teacher's, if there is one."""

    document: Document
    grade: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class RankingGroup:
    """A query with its graded candidates: the unit both stages make their examples from."""

    query_id: str
    query: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class PromptRows:
    """How the prompts of a batch stand behind each other in rows while the layers run.

    Attributes:
        prompts: n of each row, neighbours in the batch; n divides B.
        shared: tokens that all prompts of the batch begin with, and that stand in a row once; fewer than any
            prompt has.
        tokens: of a row, at least what its prompts have.
    """

    prompts: int
    shared: int
    tokens: int


@flax.struct.dataclass
class Batch:
    """Prompts of one static length, padded on the right.

    Attributes:
        tokens: [B, T] int32 token ids; anything at and after `lengths`.
        lengths: [B] int32 real tokens of each row, at least 1.
        labels: [B] int32, 1 where the document is relevant, else 0.
        examples: [B] int32 position of the example in its data set; -1 for a filler row.
        rows: how a training step runs the prompts without their padding; None: with it.
    """

    tokens: Array
    lengths: Array
    labels: Array
    examples: Array
    rows: PromptRows | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class ListBatch:
    """Lists of K documents, one for each of Q queries; what the prompts of a list share is there once.

    A prompt is `prefix[q, :prefix_lengths[q]]` followed by `tokens[q, k, :lengths[q, k]]`.

    Attributes:
        prefix: [Q, P] int32 token ids up to the document; anything at and after `prefix_lengths`.
        prefix_lengths: [Q] int32, 0 where nothing is shared.
        tokens: [Q, K, S] int32 token ids of the rest of each prompt.
        lengths: [Q, K] int32 real tokens of the rest, at least 1.
        grades: [Q, K] float32 judgements.
        teacher: [Q, K] float32 teacher scores; NaN where there is none.
        mask: [Q, K] bool, true for a document of the query's own list.
        in_batch: [Q, K] bool, true for a document borrowed from another query of the batch.
        examples: [Q, K] int32 position of the example in its data set; -1 where there is none.
        row_tokens: at least what each list's `lengths` sum to, with one more for each document where an
            answer will follow it, if documents shall stand behind each other in a row of so many tokens;
            None: each is padded to S.
    """

    prefix: Array
    prefix_lengths: Array
    tokens: Array
    lengths: Array
    grades: Array
    teacher: Array
    mask: Array
    in_batch: Array
    examples: Array
    row_tokens: int | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class PackedBatch:
    """Prompts of any length behind each other in R rows of T tokens; what some start with is there once.

    A row holds up to E segments: a whole prompt, what several prompts of one query start with, or the rest of
    one of those. A filler segment is the row's first token, which belongs to the first one.

    Attributes:
        tokens: [R, T] int32 token ids; anything behind the last segment.
        segments: [R, T] int32 the segment of each token; any behind the last one.
        starts: [R, E] int32 place of each segment's first token.
        lengths: [R, E] int32 its tokens, at least 1.
        prefixes: [R, E] int32 the segment that it follows; -1 for none.
        examples: [R, E] int32 position of the example that ends with it; -1 where none does.
        width: at least the longest segment.
        prefix_width: at least the longest that another one follows; 0 where none does.
    """

    tokens: Array
    segments: Array
    starts: Array
    lengths: Array
    prefixes: Array
    examples: Array
    width: int = flax.struct.field(pytree_node=False)
    prefix_width: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Rollout:
    """The sampled completions of a batch of prompts, and what they earned.

    Attributes:
        tokens: [B, G, L] int32; whatever follows an end-of-turn token is that token again.
        mask: [B, G, L] float32, 1 up to and including the first end-of-turn token.
        log_probs: [B, G, L] float32 log-probabilities under the policy that sampled them.
        rewards: [B, G] float32.
        advantages: [B, G] float32.
        tied: [B] bool, groups whose rewards are all equal.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    rewards: jax.Array
    advantages: jax.Array
    tied: jax.Array


@flax.struct.dataclass
class TrainState:
    """What a step reads and writes.

    Attributes:
        step: int32, the batches trained on.
        params: what is trained: all parameters, or the low-rank factors only.
        opt_state: of the optimizer, for `params`.
        frozen: the other parameters; empty when all are trained.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    frozen: Params = flax.struct.field(default_factory=dict)
