"""mxbai-rerank as one side of the scoring benchmark; see side.py for what it answers.

Its own class and its own path for many pairs, which sorts them by length; the batch size is the fastest of
those that work.json names.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mxbai_rerank import MxbaiRerankV2
from side import MODEL_FOLDER, read_settings, serve
from torch_device import forget_peak, torch_facts, torch_peak_bytes
from tuning import fastest


class MxbaiSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Loads the model with the chat format and the room of all sides."""
        self.settings = settings = read_settings(work)
        torch.set_num_threads(settings["threads"])
        frame = settings["frame"]
        MxbaiRerankV2.chat_template = {"prefix": frame["prefix"], "suffix": frame["suffix"]}
        self.model = MxbaiRerankV2(
            str(work / MODEL_FOLDER),
            torch_dtype=getattr(torch, settings["dtype"]),
            max_length=frame["room"],
            disable_transformers_warnings=True,
        )
        return {
            "facts": {
                "mxbai-rerank": version("mxbai-rerank"),
                "transformers": version("transformers"),
                **torch_facts(self.model.device),
                "dtype": str(self.model.model.dtype).removeprefix("torch."),
                "attention": self.model.model.config._attn_implementation,
            }
        }

    def prepare(self) -> dict[str, Any]:
        """Chooses the batch size."""
        settings = self.settings
        self.pairs, self.checked = settings["pairs"], settings["check"]
        sample = [self.pairs[place] for place in settings["tuning"]]
        sizes = settings["batch_sizes"]
        self.batch_size, seconds = fastest(sizes, lambda size: self._scores(sample, size))
        forget_peak()
        return {
            "facts": {"batch_size": self.batch_size, "seconds_by_batch_size": seconds},
            "compile_seconds": 0.0,
        }

    def check(self) -> dict[str, Any]:
        """Scores of the checked pairs."""
        scores = self._scores([self.pairs[place] for place in self.checked], self.batch_size)
        return {"values": scores.astype(float).tolist()}

    def run_round(self) -> dict[str, Any]:
        """All pairs, from texts to scores."""
        started = time.perf_counter()
        scores = self._scores(self.pairs, self.batch_size)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "units": len(scores), "peak_bytes": torch_peak_bytes()}

    def _scores(self, pairs: list[list[str]], batch_size: int) -> np.ndarray:
        """Not `rank`, which takes one query: what it calls takes pairs of many."""
        queries, documents = map(list, zip(*pairs, strict=True))
        return self.model._compute_scores(
            queries=queries, documents=documents, batch_size=batch_size, show_progress=False
        )


if __name__ == "__main__":
    side = MxbaiSide()
    serve(side.load, side.prepare, side.check, side.run_round)
