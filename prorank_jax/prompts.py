"""Renders a query and a document as the token ids of the relevance prompt.

The prompt, its pieces and its limits are those of mxbai-rerank v2, token for token, with one exception:
the texts of a query, a document and an instruction are always plain text here. `<|im_end|>` inside a
document is spelled out and can end no turn. The pieces are encoded one by one and then joined.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from prorank_jax.chat_templates import make_chat_frame
from prorank_jax.excerpts import EXCERPT_STYLES, EXCERPT_VERSION, key_sentences
from prorank_jax.input_checks import Pair
from prorank_jax.leading_tokens import leading_tokens
from prorank_jax.plain_text import plain_text_tokenizer
from prorank_jax.prompt_template import (
    DOCUMENT_HEAD,
    INSTRUCTION_HEAD,
    QUERY_HEAD,
    SEPARATOR,
    encode_template,
    single_token,
    template_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Least tokens left to a query after its head, and to a document beside the longest query.
LEAST_TEXT_TOKENS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of the two answers and of the end of a turn."""

    zero: int
    one: int
    end: int


@dataclass(eq=False)
class PromptRenderer:
    """Turns texts into prompts; made by `make_renderer`.

    Attributes:
        max_length: longest prompt in tokens, template included.
        excerpts: what is kept of a document that is too long: its `head`, or its `key_sentences`.
        fixed_length: tokens of the prompt of an empty query and an empty document.
        answer_tokens: ids of `0`, `1` and the end of the turn.
        fingerprint: equal for two renderers exactly when they give the same ids for every text.
        truncated_queries: how many queries were cut so far; in one batch an equal query counts once.
    """

    max_length: int
    answer_tokens: AnswerTokens
    plain_text: Tokenizer
    tokenizer_digest: str
    prefix: list[int]
    separator: list[int]
    ending: list[int]
    query_head: str
    excerpts: str = EXCERPT_STYLES[0]
    fixed_length: int = field(init=False)
    fingerprint: str = field(init=False)
    truncated_queries: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._check_room()
        self.fixed_length = len(self.render("", ""))
        self.fingerprint = self._compute_fingerprint()

    @property
    def room(self) -> int:
        """Tokens for query, separator and document: what mxbai-rerank calls `max_length`."""
        return self.max_length - self.template_length

    @property
    def template_length(self) -> int:
        """Tokens of the prompt's fixed text around query, separator and document."""
        return len(self.prefix) + len(self.ending)

    def with_instruction(self, instruction: str) -> PromptRenderer:
        """This renderer with another instruction line; empty: none.

        Raises:
            ValueError: the instruction leaves no room for text.
        """
        try:
            return dataclasses.replace(self, query_head=_query_head(instruction))
        except ValueError as error:  # which names fields of a config, and these are others' to set
            raise ValueError(
                f"an instruction of {len(instruction)} characters leaves no room for text in "
                f"max_length={self.max_length}; shorten it"
            ) from error

    def render(self, query: str, document: str) -> list[int]:
        """The prompt's token ids, at most `max_length`: first a too long query is cut, then the document."""
        return self.render_batch([(query, document)])[0]

    def render_batch(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """What `render` gives for each (query, document), encoded in parallel and each query once.

        Of a text, at most 64 characters are read for each token of room (see `leading_tokens`).
        """
        queries = list(dict.fromkeys(query for query, _ in pairs))
        heads = self._encode([self.query_head + query for query in queries], _query_limit(self.room) + 1)
        query_ids = dict(zip(queries, map(self._cut_query, heads), strict=True))
        texts = self._excerpts(pairs, [len(query_ids[query]) for query, _ in pairs])
        documents = self._encode([DOCUMENT_HEAD + text for text in texts], self.room)
        return [
            self._join(query_ids[query], document_ids)
            for (query, _), document_ids in zip(pairs, documents, strict=True)
        ]

    def _join(self, query_ids: list[int], document_ids: list[int]) -> list[int]:
        document_room = self.room - len(query_ids) - len(self.separator)
        return self.prefix + query_ids + self.separator + document_ids[:document_room] + self.ending

    def _excerpts(self, pairs: Sequence[Pair], query_lengths: Sequence[int]) -> list[str]:
        """What the prompts say of the documents, still to be cut to the tokens there are."""
        if self.excerpts == "head":
            return [document for _, document in pairs]
        head = len(self.separator) + len(self._encode([DOCUMENT_HEAD], self.room)[0])

        def count_tokens(texts: Sequence[str]) -> list[int]:
            return [len(ids) for ids in self._encode(texts, self.room)]  # more than a document's room

        return key_sentences(pairs, [self.room - head - length for length in query_lengths], count_tokens)

    def _cut_query(self, query_ids: list[int]) -> list[int]:
        limit = _query_limit(self.room)
        if len(query_ids) > limit:
            self.count_truncated(1)
        return query_ids[:limit]

    def count_truncated(self, queries: int) -> None:
        """Counts queries that were cut; of the first ones there is a warning."""
        if queries and self.truncated_queries == 0:
            _log.warning(
                "a query is cut to %d tokens, three quarters of the room data.max_length=%d leaves it; "
                "further ones are only counted",
                _query_limit(self.room),
                self.max_length,
            )
        self.truncated_queries += queries

    def _encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        return leading_tokens(self.plain_text, texts, limit)

    def _check_room(self) -> None:
        def count(text: str) -> int:
            most_bytes = 4 * len(text)
            return len(self._encode([text], most_bytes)[0])

        query_needs = count(self.query_head) + LEAST_TEXT_TOKENS
        document_needs = len(self.separator) + count(DOCUMENT_HEAD) + LEAST_TEXT_TOKENS

        def suffices(room: int) -> bool:
            return _query_limit(room) >= query_needs and room - _query_limit(room) >= document_needs

        if self.room < 1 or not suffices(self.room):
            least = self.max_length - self.room + next(filter(suffices, itertools.count(1)))
            raise ValueError(
                f"data.max_length={self.max_length}: too short for the prompt's fixed text; "
                f"give at least {least}, or shorten data.instruction or data.system"
            )

    def _compute_fingerprint(self) -> str:
        deciding = {
            "tokenizer": self.tokenizer_digest,
            "ids": [self.prefix, self.separator, self.ending],
            "heads": [self.query_head, DOCUMENT_HEAD],
            "max_length": self.max_length,
            "answers": [self.answer_tokens.zero, self.answer_tokens.one, self.answer_tokens.end],
        }
        if self.excerpts != "head":  # as before for prompts that are as before
            deciding["excerpts"] = [self.excerpts, EXCERPT_VERSION]
        return _digest(deciding)


def make_renderer(
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    instruction: str = "",
    system: str = "",
    excerpts: str = EXCERPT_STYLES[0],
) -> PromptRenderer:
    """Builds the renderer of a model's prompts.

    Args:
        max_length: longest prompt in tokens, template included (`data.max_length`).
        instruction: a line before each query; empty: none.
        system: the system sentence; empty: the model's own.
        excerpts: what is kept of a document that is too long; one of `excerpts.EXCERPT_STYLES`.

    Raises:
        ValueError: `0` or `1` is not one token, the template cannot be used, or no room is left for text.
    """
    frame = make_chat_frame(tokenizer, system)
    plain_text = plain_text_tokenizer(tokenizer)
    prefix, ending = template_ids(tokenizer, frame)
    return PromptRenderer(
        max_length=max_length,
        answer_tokens=AnswerTokens(
            zero=single_token(tokenizer, "0"), one=single_token(tokenizer, "1"), end=frame.end_token
        ),
        plain_text=plain_text,
        tokenizer_digest=_digest(json.loads(plain_text.to_str())),
        prefix=prefix,
        separator=encode_template(tokenizer, SEPARATOR),
        ending=ending,
        query_head=_query_head(instruction),
        excerpts=excerpts,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _query_head(instruction: str) -> str:
    return (f"{INSTRUCTION_HEAD}{instruction}{SEPARATOR}" if instruction else "") + QUERY_HEAD


def _query_limit(room: int) -> int:
    return room * 3 // 4
