"""Turns scores into the answer that the client's format asks for: always best first, by the raw score."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from scipy.special import expit

from prorank_jax.calibration import Calibration
from prorank_jax.serving.request_format import Format, RerankRequest


def make_answer(
    request: RerankRequest, scores: np.ndarray, model: str, calibration: Calibration | None = None
) -> Any:
    """The JSON of an answer.

    The order is that of the logit differences, ties in the order of the request. Where a number from 0 to
    1 is shown, it is the calibration's probability, or without one their sigmoid in float64, so that
    different scores stay different as long as they can.

    Args:
        request: what was asked.
        scores: [K] float32 logit differences of its documents.
        model: name of the model that scored.
        calibration: None: the sigmoid.
    """
    order = np.argsort(-scores, kind="stable")[: request.top_n]
    shown = scores.astype(np.float64) if request.raw_scores else _from_0_to_1(scores, calibration)
    if request.format is Format.TEI:
        return [_tei_result(request, int(index), float(shown[index])) for index in order]
    return {
        "id": uuid.uuid4().hex,
        "model": model,
        "results": [_cohere_result(request, int(index), float(shown[index])) for index in order],
        "meta": {"api_version": {"version": "2"}},
    }


def _from_0_to_1(scores: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    return calibration.probabilities(scores) if calibration else expit(scores.astype(np.float64))


def _tei_result(request: RerankRequest, index: int, score: float) -> dict[str, Any]:
    text = {"text": request.documents[index]} if request.return_documents else {}
    return {"index": index, "score": score, **text}


def _cohere_result(request: RerankRequest, index: int, score: float) -> dict[str, Any]:
    document = {"document": {"text": request.documents[index]}} if request.return_documents else {}
    return {"index": index, "relevance_score": score, **document}
