"""What the sides of the scoring benchmark on torch have in common; see side.py for what they answer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch_device import forget_peak, torch_peak_bytes, tuning_options
from tuning import fastest


class TorchScoringSide:
    """A side whose `load` has set `settings` and `pairs`, and whose `scores` are its library's."""

    settings: dict[str, Any]
    pairs: list[Any]

    def scores(self, pairs: list[Any], batch_size: int) -> np.ndarray:
        """The scores of pairs (query, document): [n]."""
        raise NotImplementedError

    def prepare(self) -> dict[str, Any]:
        """Chooses the batch size."""
        sample = [self.pairs[place] for place in self.settings["tuning"]]
        sizes = self.settings["batch_sizes"]
        self.batch_size, seconds = fastest(sizes, lambda size: self.scores(sample, size), **tuning_options())
        forget_peak()
        return {
            "facts": {"batch_size": self.batch_size, "seconds_by_batch_size": seconds},
            "compile_seconds": 0.0,
        }

    def check(self) -> dict[str, Any]:
        """Scores of the checked pairs."""
        scores = self.scores([self.pairs[place] for place in self.settings["check"]], self.batch_size)
        return {"values": scores.astype(float).tolist()}

    def run_round(self) -> dict[str, Any]:
        """All pairs, from texts to scores."""
        started = time.perf_counter()
        scores = self.scores(self.pairs, self.batch_size)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "units": len(scores), "peak_bytes": torch_peak_bytes()}
