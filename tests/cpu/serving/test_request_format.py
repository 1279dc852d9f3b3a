"""Both request formats, and everything that is neither: a clear 4xx, never anything else."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.serving.errors import RequestError
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.request_format import Format, RerankRequest, parse_request

LIMITS = ServerOptions(model="m", max_documents=3, max_queue_pairs=10, max_text_chars=20)
COHERE = {"query": "q", "documents": ["a", "b"]}
TEI = {"query": "q", "texts": ["a", "b"]}


def parse(record: Any) -> Any:
    return parse_request(json.dumps(record).encode(), LIMITS)


def test_a_cohere_request():
    documents = ["a", {"text": "b"}, {"text": "c", "id": 7}]
    request = parse({"model": "rerank-v3.5", "query": "q", "documents": documents, "top_n": 2})
    assert request.format is Format.COHERE
    assert request.pairs == [("q", "a"), ("q", "b"), ("q", "c")]
    assert (request.top_n, request.return_documents, request.raw_scores) == (2, False, False)
    assert request.instruction is None


def test_a_title_stands_before_the_text():
    documents = [{"title": "t", "text": "a"}, {"title": None, "text": "b"}, {"title": "", "text": "c"}]
    assert [document for _, document in parse({"query": "q", "documents": documents}).pairs] == [
        "t a",
        "b",
        "c",
    ]


def test_a_tei_request():
    request = parse(TEI | {"raw_scores": True, "return_text": True, "truncate": True, "instruction": "i"})
    assert request.format is Format.TEI
    assert (request.top_n, request.return_documents, request.raw_scores) == (2, True, True)
    assert request.instruction == "i"


def test_null_is_the_default():
    names = ("top_n", "return_documents", "instruction", "model", "max_tokens_per_doc")
    assert parse(COHERE | dict.fromkeys(names)) == parse(COHERE)
    names = ("raw_scores", "return_text", "truncate", "truncation_direction", "instruction")
    assert parse(TEI | dict.fromkeys(names)) == parse(TEI)


def test_more_results_than_documents_are_all_of_them():
    assert parse(COHERE | {"top_n": 99}).top_n == 2


def test_halves_of_surrogate_pairs_become_question_marks():
    assert parse({"query": "q\ud800", "documents": ["\udc00a"]}).pairs == [("q?", "?a")]


@pytest.mark.parametrize(
    ("record", "field", "message"),
    [
        ({"query": "q"}, "documents", "missing; send documents .* or texts"),
        (COHERE | {"texts": ["a"]}, "texts", "not both"),
        ({"documents": ["a"]}, "query", "missing"),
        (COHERE | {"query": None}, "query", "None is a JSON null; send a string"),
        (COHERE | {"query": ["q"]}, "query", "JSON array; send a string"),
        (COHERE | {"query": " \n"}, "query", "blank"),
        (COHERE | {"query": "x" * 21}, "query", "21 characters, more than max_text_chars=20"),
        (COHERE | {"documents": "a"}, "documents", "'a' is a JSON string; send a list"),
        (COHERE | {"documents": None}, "documents", "JSON null"),
        (COHERE | {"documents": []}, "documents", "at least one"),
        (COHERE | {"documents": ["a"] * 4}, "documents", "4 documents, more than max_documents=3"),
        (COHERE | {"documents": ["a", 1]}, "documents[1]", "1 is a JSON number"),
        (COHERE | {"documents": ["a", True]}, "documents[1]", "JSON boolean"),
        (COHERE | {"documents": [{"title": "a"}]}, "documents[0]", 'has no "text"'),
        (COHERE | {"documents": [{"text": "a", "title": 3}]}, "documents[0].title", "3 is a JSON number"),
        (COHERE | {"documents": [{"text": 3}]}, "documents[0].text", "3 is a JSON number"),
        (COHERE | {"documents": ["x" * 21]}, "documents[0]", "max_text_chars=20"),
        (TEI | {"texts": [{"text": "a"}]}, "texts[0]", "JSON object; send a string"),
        (COHERE | {"top_n": 0}, "top_n", "0 is no number of results"),
        (COHERE | {"top_n": True}, "top_n", "True"),
        (COHERE | {"top_n": 1.0}, "top_n", "1.0"),
        (COHERE | {"return_documents": "yes"}, "return_documents", "'yes' is a JSON string; send true or"),
        (TEI | {"raw_scores": 1}, "raw_scores", "JSON number"),
        (TEI | {"truncation_direction": "Left"}, "truncation_direction", "'Left'.*cut at their end"),
        (COHERE | {"instruction": 5}, "instruction", "JSON number"),
        (COHERE | {"topn": 2}, "topn", "did you mean top_n"),
        (COHERE | {"rank_fields": ["text"]}, "rank_fields", "leave it out"),
        (COHERE | {"raw_scores": True}, "raw_scores", "no field of a request with documents"),
        (TEI | {"top_n": 1}, "top_n", "no field of a request with texts"),
        (COHERE | {"it's\ud800": 1}, "it's?", "no field of a request with documents"),
        (COHERE | {"": 1}, "(empty name)", "leave it out"),
        (COHERE | {"x" * 99: 1}, "x" * 57 + "...", "leave it out"),
    ],
)
def test_fields_that_are_wrong_are_named(record, field, message):
    with pytest.raises(RequestError) as caught:
        parse(record)
    assert (caught.value.status, caught.value.field) == (422, field)
    assert re.search(message, caught.value.message)


def test_no_likeness_is_sought_for_a_name_of_megabytes(monkeypatch):
    sought = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, *_, **__: sought.append(name) or [])
    for length in (1, 64, 65, 1 << 20):
        with pytest.raises(RequestError, match="leave it out"):
            parse(COHERE | {"x" * length: 1})
    assert [len(name) for name in sought] == [1, 64]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "line 1"),
        (b"\xff{}", "byte 1 is not UTF-8"),
        ('{"query": "q"}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "JSON array, not an object"),
        (b"3", "JSON number"),
        (b'{"query": NaN}', "NaN is not JSON"),
        (b'{"query": -Infinity}', "-Infinity is not JSON"),
        (b'{"query": "a", "query": "b"}', "'query' is given twice"),
        (b'{"query": "q", "documents": [{"text": "a", "text": "b"}]}', "'text' is given twice"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "given twice"),
        (b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"query": ' + b"9" * 10_000 + b"}", "digits"),
    ],
)
def test_what_is_no_json_object(body, message):
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(body, LIMITS)
    assert caught.value.status == 400
    json.dumps(caught.value.to_json()).encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "query",
        "documents",
        "texts",
        "top_n",
        "raw_scores",
        "return_text",
        "instruction",
        "truncation_direction",
    ]
)


def parse_or_error(record: Any) -> RerankRequest | RequestError:
    try:
        return parse(record)
    except RequestError as error:
        return error


@given(st.dictionaries(NAMES, JSON_VALUES))
def test_any_object_is_a_request_or_a_client_error(record):
    result = parse_or_error(record)
    if isinstance(result, RequestError):
        assert result.status in (400, 422)
        assert json.dumps(result.to_json(), ensure_ascii=False).encode()
    else:
        assert all(isinstance(text, str) for pair in result.pairs for text in pair)
        assert 1 <= result.top_n <= len(result.documents)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_client_error(body):
    with pytest.raises(RequestError) as caught:
        parse_request(body, LIMITS)
    assert caught.value.status in (400, 422)
