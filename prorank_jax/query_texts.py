"""Whether two queries are the same text, for queries that must not be seen in training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Set


def plain(text: str) -> str:
    """The text in one case, with single blanks: equal for what is the same query."""
    return " ".join(text.casefold().split())


def plain_texts(texts: Iterable[str]) -> frozenset[str]:
    """The different `plain` texts."""
    return frozenset(map(plain, texts))


def texts_digest(plain_texts: Set[str]) -> str:
    """A short name that differs for any other set of texts."""
    return hashlib.sha256(json.dumps(sorted(plain_texts)).encode()).hexdigest()[:20]
