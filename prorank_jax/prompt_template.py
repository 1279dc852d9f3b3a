"""The fixed texts of the relevance prompt, and their token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prorank_jax.chat_templates import ChatFrame, make_chat_frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The prompt of the published checkpoints (mixedbread-ai/mxbai-rerank-base-v2 and -large-v2).
TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. "
    "For each query-document pair, carefully analyze the semantic relationship between them, then provide "
    "your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
SEPARATOR = "\n"
INSTRUCTION_HEAD, QUERY_HEAD, DOCUMENT_HEAD = "instruction: ", "query: ", "document: "


def template_length(tokenizer: PreTrainedTokenizerFast, system: str = "") -> int:
    """Tokens of a prompt's fixed text around query, separator and document.

    Raises:
        ValueError: the template cannot be used.
    """
    prefix, ending = template_ids(tokenizer, make_chat_frame(tokenizer, system))
    return len(prefix) + len(ending)


def template_ids(tokenizer: PreTrainedTokenizerFast, frame: ChatFrame) -> tuple[list[int], list[int]]:
    """What stands before the query, and after the document."""
    after = (SEPARATOR, TASK, frame.suffix)
    ending = [token for text in after for token in encode_template(tokenizer, text)]
    return encode_template(tokenizer, frame.prefix), ending


def encode_template(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of the prompt's own text, in which control tokens mean themselves."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)


def single_token(tokenizer: PreTrainedTokenizerFast, answer: str) -> int:
    """The one token that an answer is.

    Raises:
        ValueError: the tokenizer makes more, or none, of it.
    """
    ids = encode_template(tokenizer, answer)
    if len(ids) != 1:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"model.source: the tokenizer {name} encodes the answer {answer!r} as {ids}, not as one token"
        )
    return ids[0]
