"""Scores as probabilities between 0 and 1 that order any two documents exactly as the scores do."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

# A sigmoid of float64 gives equal values for different scores from about 25 on. This much of the result
# is the score's place among all float32 numbers, whose steps of 2⁻³² · 1e-5 float64 still tells apart.
_ORDER_SHARE = 1e-5


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope · s + intercept), Platt's scaling; the default reads s as the model's own log-odds.

    Raises:
        ValueError: a slope that is not above 0 (it would turn the order round), or an infinite parameter.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.slope < np.inf:
            raise ValueError(f"slope={self.slope!r}: must be finite and above 0, or the order would change")
        if not np.isfinite(self.intercept):
            raise ValueError(f"intercept={self.intercept!r}: must be finite")

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [n] float64 of finite scores [n] float32: within 1e-5 of the sigmoid.

        Strictly increasing: different scores give different probabilities, equal scores equal ones.
        """
        sigmoid = expit(self.slope * scores.astype(np.float64) + self.intercept)
        return (1 - _ORDER_SHARE) * sigmoid + _ORDER_SHARE * _place_among_floats(scores)


def checked_labels(labels: Sequence[int] | np.ndarray, pairs: int) -> np.ndarray:
    """The labels of so many pairs, which a calibration can be fitted to: [pairs].

    Raises:
        ValueError: labels of another length or other values, or only one label.
    """
    try:
        relevant = np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ValueError("labels: a list within the list; give one number for each pair") from error
    if relevant.shape != (pairs,):
        raise ValueError(f"labels: {relevant.shape} for {pairs} pairs; give a list with one for each pair")
    if not np.isin(relevant, (0, 1)).all():
        raise ValueError("labels: each must be 0 (not relevant) or 1 (relevant)")
    positives, negatives = int(np.sum(relevant == 1)), int(np.sum(relevant == 0))
    if not positives or not negatives:
        raise ValueError(f"labels: {positives} relevant and {negatives} not; calibration needs both")
    return relevant


def fit_calibration(scores: np.ndarray, labels: Sequence[int] | np.ndarray) -> Calibration:
    """Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines", section 2.2).

    Minimises the cross-entropy with his smoothed targets (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2), which
    keep the parameters finite where the labels can be separated.

    Args:
        scores: [n] float32, finite.
        labels: [n], 1 relevant, 0 not.

    Raises:
        ValueError: labels of another length or other values, only one label, or scores that fall with
            relevance.
    """
    relevant = checked_labels(labels, len(scores))
    positives, negatives = int(np.sum(relevant == 1)), int(np.sum(relevant == 0))
    targets = np.where(relevant == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Standard scores condition the problem alike for every model.
    center, spread = float(scores.mean(dtype=np.float64)), float(scores.std(dtype=np.float64)) or 1.0
    standard = (scores.astype(np.float64) - center) / spread

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * standard + parameters[1]
        errors = expit(logits) - targets
        loss = np.mean(np.logaddexp(0, logits) - targets * logits)
        return float(loss), np.array([np.mean(errors * standard), np.mean(errors)])

    fitted = minimize(loss_and_gradient, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9})
    slope, intercept = fitted.x[0] / spread, fitted.x[1] - fitted.x[0] * center / spread
    if not slope > 1e-9 / spread:
        raise ValueError("labels: the scores do not rise with relevance; check the labels or train the model")
    return Calibration(float(slope), float(intercept))


def save_calibration(file: str | os.PathLike[str], calibration: Calibration) -> None:
    """Writes a calibration as JSON, `{"slope": ..., "intercept": ...}`; loaded, it is the same to the bit."""
    Path(file).write_text(json.dumps(asdict(calibration)) + "\n", encoding="utf-8")


def load_calibration(file: str | os.PathLike[str]) -> Calibration:
    """The calibration that `save_calibration` wrote.

    Raises:
        ValueError: there is no such file, or it holds something else than two finite numbers that keep the
            order.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) != {"slope", "intercept"}:
            raise ValueError('it is not {"slope": ..., "intercept": ...}')
        return Calibration(_number(content, "slope"), _number(content, "intercept"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"calibration={str(file)!r}: cannot be used ({reason}); name a file of save_calibration"
        ) from error


def _number(content: dict[str, object], name: str) -> float:
    value = content[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name}: must be finite") from error


def _place_among_floats(scores: np.ndarray) -> np.ndarray:
    """Which float32 number it is, counted from the least and divided by their number: [n] float64."""
    bits = np.asarray(scores + np.float32(0), np.float32).view(np.int32).astype(np.int64)  # −0 becomes 0
    signed = np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    return signed / 2.0**32 + 0.5
