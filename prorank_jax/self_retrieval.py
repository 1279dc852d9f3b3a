"""Queries that are documents of their own collection, as in ArguAna and Quora."""

from __future__ import annotations

import re

# A query that is a document of the corpus differs from it at most in title and details.
_SHARE_OF_ITSELF = 0.9
# Of a numbered document's words, or of its title's, those that its own query asks with.
_SHARE_OF_NUMBERED = 0.5
_WORD = re.compile(r"\w+")


def is_the_query(identifier: str, query: str, title: str, text: str) -> bool:
    """Whether the document with the query's own id is the very text that is asked with.

    BEIR drops a document whose id is the query's. In some collections both are merely numbered from 1, so
    the words must agree too: the document holds the query's, and where the id is a number, the query most
    of the document's or of its title's.
    """
    asked, titled = _words(query), _words(title)
    there = titled | _words(text)
    if not asked or len(asked & there) < _SHARE_OF_ITSELF * len(asked):
        return False
    if not identifier.isdecimal():
        return True
    return any(len(asked & said) >= _SHARE_OF_NUMBERED * len(said) for said in (titled, there) if said)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
