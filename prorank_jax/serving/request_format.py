"""Reads the two request formats: `documents` (Cohere, Jina) and `texts` (Text Embeddings Inference)."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prorank_jax.input_checks import Pair
from prorank_jax.jsonl import valid_text
from prorank_jax.serving.errors import RequestError, wrong_field
from prorank_jax.serving.options import ServerOptions

# Taken and without effect: the server has one model, cuts documents at its own length, bills nobody.
WITHOUT_EFFECT = ("model", "max_tokens_per_doc", "max_chunks_per_doc", "priority", "user", "truncate")


class Format(Enum):
    """Whose client asks; the value is the field that holds the documents."""

    COHERE = "documents"
    TEI = "texts"


OWN_FIELDS = {
    Format.COHERE: ("documents", "top_n", "return_documents"),
    Format.TEI: ("texts", "raw_scores", "return_text", "truncation_direction"),
}
SHARED_FIELDS = ("query", "instruction")
# difflib looks at every character before it compares: for a name of megabytes, seconds in the event loop.
LONGEST_MISSPELT = 64


@dataclass(frozen=True)
class RerankRequest:
    """A request that can be scored.

    Attributes:
        top_n: how many results are wanted, at most the number of documents.
        raw_scores: logit differences instead of their sigmoid.
        instruction: None: the server's own.
    """

    format: Format
    query: str
    documents: tuple[str, ...]
    top_n: int
    return_documents: bool
    raw_scores: bool
    instruction: str | None

    @property
    def pairs(self) -> list[Pair]:
        """The query with each document, in the order of the request."""
        return [(self.query, document) for document in self.documents]


def parse_request(body: bytes | bytearray, limits: ServerOptions) -> RerankRequest:
    """The request that a body holds; halves of surrogate pairs in its texts become `?`.

    Raises:
        RequestError: 400 for what is no JSON object, 422 for fields that are missing, unknown or wrong.
    """
    record = parse_object(body)
    format = _tell_format(record)
    _check_names(record, format)
    documents = _take_documents(record, format.value, limits)
    _check_direction(record)
    is_cohere = format is Format.COHERE
    return RerankRequest(
        format=format,
        query=_take_query(record, limits),
        documents=documents,
        top_n=min(_take_top_n(record), len(documents)),
        return_documents=_take_bool(record, "return_documents" if is_cohere else "return_text"),
        raw_scores=_take_bool(record, "raw_scores"),
        instruction=_take_instruction(record, limits),
    )


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object (RFC 8259) in which no name occurs twice.

    Raises:
        RequestError: 400, with what is wrong and where.
    """
    try:
        record = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates
        )
    except UnicodeDecodeError as error:
        raise _no_json(f"byte {error.start + 1} is not UTF-8") from error
    except RecursionError as error:
        raise _no_json("nested too deeply") from error
    except ValueError as error:
        raise _no_json(str(error).partition(";")[0]) from error  # behind it stands advice to programmers
    if not isinstance(record, dict):
        raise _no_json(f"it is a JSON {_json_type(record)}, not an object")
    return record


def _no_json(reason: str) -> RequestError:
    return RequestError(
        400, "invalid_json", f"the body cannot be read ({reason}); send one JSON object in UTF-8"
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in items:
        if name in record:
            raise ValueError(f"{_shown(name)} is given twice")
        record[name] = value
    return record


def _json_type(value: Any) -> str:
    names: dict[type, str] = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        type(None): "null",
    }
    return names.get(type(value), "number")


def _shown(value: Any) -> str:
    return _cut(repr(valid_text(value) if isinstance(value, str) else value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tell_format(record: dict[str, Any]) -> Format:
    there = [format for format in Format if format.value in record]
    if len(there) == 2:
        raise wrong_field(
            "texts", "given beside documents; send documents (Cohere, Jina) or texts (TEI), not both"
        )
    if not there:
        raise wrong_field("documents", "missing; send documents (Cohere, Jina) or texts (TEI)")
    return there[0]


def _check_names(record: dict[str, Any], format: Format) -> None:
    known = (*SHARED_FIELDS, *OWN_FIELDS[format], *WITHOUT_EFFECT)
    for name in record:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) if len(name) <= LONGEST_MISSPELT else []
            remedy = (
                f"did you mean {close[0]}?" if close else f"leave it out or use one of {', '.join(known)}"
            )
            # A name of megabytes would come back in the answer twice.
            shown = _cut(valid_text(name)) or "(empty name)"
            raise wrong_field(shown, f"no field of a request with {format.value}; {remedy}")


def _take_text(value: Any, field: str, limits: ServerOptions) -> str:
    if not isinstance(value, str):
        raise wrong_field(field, f"{_shown(value)} is a JSON {_json_type(value)}; send a string")
    if len(value) > limits.max_text_chars:
        raise wrong_field(
            field, f"{len(value)} characters, more than max_text_chars={limits.max_text_chars}; shorten it"
        )
    return valid_text(value)


def _take_query(record: dict[str, Any], limits: ServerOptions) -> str:
    if "query" not in record:
        raise wrong_field("query", "missing; send the text to search for")
    query = _take_text(record["query"], "query", limits)
    if not query.strip():
        raise wrong_field("query", f"{_shown(query)} is blank; send the text to search for")
    return query


def _take_documents(record: dict[str, Any], field: str, limits: ServerOptions) -> tuple[str, ...]:
    values = record[field]
    if not isinstance(values, list):
        raise wrong_field(field, f"{_shown(values)} is a JSON {_json_type(values)}; send a list of strings")
    if not values:
        raise wrong_field(field, "[] has nothing to rank; send at least one document")
    if len(values) > limits.max_documents:
        raise wrong_field(
            field,
            f"{len(values)} documents, more than max_documents={limits.max_documents}; send several requests",
        )
    texts = [_take_document(value, f"{field}[{index}]", limits) for index, value in enumerate(values)]
    return tuple(texts)


def _take_document(value: Any, field: str, limits: ServerOptions) -> str:
    if isinstance(value, dict) and field.startswith(Format.COHERE.value):
        if "text" not in value:
            raise wrong_field(field, f'{_shown(value)} has no "text"; send a string or {{"text": "..."}}')
        text = _take_text(value["text"], f"{field}.text", limits)
        if value.get("title") in (None, ""):
            return text
        # As collections give it in training.
        return f"{_take_text(value['title'], f'{field}.title', limits)} {text}".strip()
    return _take_text(value, field, limits)


def _take_top_n(record: dict[str, Any]) -> int:
    value = record.get("top_n")
    if value is None:
        return len(record.get("documents") or record["texts"])
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong_field("top_n", f"{_shown(value)} is no number of results; send a whole number from 1 on")
    return value


def _take_bool(record: dict[str, Any], field: str) -> bool:
    value = record.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_field(field, f"{_shown(value)} is a JSON {_json_type(value)}; send true or false")
    return value


def _take_instruction(record: dict[str, Any], limits: ServerOptions) -> str | None:
    value = record.get("instruction")
    return None if value is None else _take_text(value, "instruction", limits)


def _check_direction(record: dict[str, Any]) -> None:
    value = record.get("truncation_direction")
    if value is not None and str(value).lower() != "right":
        raise wrong_field(
            "truncation_direction",
            f"{_shown(value)}: documents are cut at their end; send 'Right' or nothing",
        )
