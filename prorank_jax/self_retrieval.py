"""Queries that are documents of their own collection, as in ArguAna and Quora."""

from __future__ import annotations

import re

# A query that is a document of the corpus differs from it at most in title and details.
_SHARE_OF_ITSELF = 0.9
_WORD = re.compile(r"\w+")


def is_the_query(query: str, document: str) -> bool:
    """Whether the document with the query's own id is the very text that is asked with.

    BEIR drops a document whose id is the query's. In some collections both are merely numbered from 1,
    so the words must agree too.
    """
    asked = set(_WORD.findall(query.casefold()))
    there = set(_WORD.findall(document.casefold()))
    return len(asked & there) >= _SHARE_OF_ITSELF * len(asked)
