"""How a metric of training moved over a run: the first quarter of its values beside the last."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LEAST_VALUES = 8


class MetricChange(NamedTuple):
    """A metric's mean over the first and the last quarter of the steps."""

    start: float
    end: float
    noise: float

    @property
    def errors(self) -> float:
        """The change in standard errors of itself."""
        change = self.end - self.start
        return change / self.noise if self.noise else math.copysign(math.inf, change) if change else 0.0


def metric_change(metrics: Sequence[Mapping[str, Any]], name: str) -> MetricChange | None:
    """How a metric went from the first quarter of its values to the last; None: too few to say."""
    values = [record[name] for record in metrics if record.get(name) is not None]
    part = len(values) // 4
    if part < _LEAST_VALUES:
        return None
    start, end = values[:part], values[-part:]
    noise = math.sqrt((statistics.variance(start) + statistics.variance(end)) / part)
    return MetricChange(statistics.fmean(start), statistics.fmean(end), noise)
