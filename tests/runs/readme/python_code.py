"""The Python of the pages, as it is executed in a test."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np

from prorank_jax.reranker import Reranker
from tests.runs.readme.markdown import Block, Piece, blocks, spans

DOCUMENTS = ["Succulents store water in their leaves.", "A river flows to the sea.", "", "Music of the hills"]
# The reader's own objects, by the names that the pages give them.
GIVEN: dict[str, Any] = {
    "query": "how do plants store water?",
    "document": DOCUMENTS[0],
    "documents": DOCUMENTS,
    "pairs": [(f"question {number}", text) for number in range(4) for text in DOCUMENTS],
}
OPENS_A_MODEL = "from_pretrained"


class _WithoutDots(ast.NodeTransformer):
    """`[(query, document), ...]` says that there may be more, and has one element here."""

    def visit_List(self, node: ast.List) -> ast.List:
        self.generic_visit(node)
        node.elts = [part for part in node.elts if not _is_dots(part)]
        return node


def _is_dots(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def python_blocks(text: str) -> list[Block]:
    """The fenced blocks in Python."""
    return [block for block in blocks(text) if block.language == "python"]


def compiled(code: str) -> CodeType:
    """Code that can be executed: lists without `...`."""
    return compile(_WithoutDots().visit(ast.parse(code)), "a page", "exec")


def models_in(code: str) -> list[str]:
    """The models that code opens."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.args]
    return [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == OPENS_A_MODEL
        and isinstance(call.args[0], ast.Constant)
    ]


def fitting_labels(names: Mapping[str, Any]) -> list[int]:
    """Judgements of `pairs` that the first reranker among the names agrees with, as calibration needs."""
    reranker = next(value for value in names.values() if isinstance(value, Reranker))
    scores = reranker.predict(names["pairs"])
    return [int(score > np.median(scores)) for score in scores]


def calls_on(names: set[str], text: str) -> list[Piece]:
    """The code spans that call a method of one of these objects, complete with their arguments."""
    found: dict[str, Piece] = {}
    for span in spans(text):
        if span.text.partition(".")[0] in names and span.text.endswith(")") and "..." not in span.text:
            found.setdefault(span.text, span)
    return list(found.values())
