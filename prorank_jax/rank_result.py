"""One ranked document, in the terms of two packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RankResult(Mapping[str, Any]):
    """One ranked document, with mxbai-rerank's fields; also a mapping with sentence-transformers' keys.

    `result["corpus_id"]` is `index`, `result["score"]` is `score`, and `result["text"]` is `document`
    (no such key where documents were not asked for). `dict(result)` gives sentence-transformers' dict.

    Attributes:
        index: place of the document in the list that was ranked.
        score: s, or its probability where calibrated ones were asked for.
        document: its text; None unless asked for.
    """

    index: int
    score: float
    document: str | None = None

    def __getitem__(self, key: str) -> Any:
        return self._as_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._as_dict())

    def __len__(self) -> int:
        return len(self._as_dict())

    def _as_dict(self) -> dict[str, Any]:
        text = {} if self.document is None else {"text": self.document}
        return {"corpus_id": self.index, "score": self.score, **text}
