"""This project's scoring as one side of the benchmark; see side.py for what it answers."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository need not be installed

from compile_clock import CompileClock
from our_facts import our_facts
from side import MODEL_FOLDER, read_settings, serve

from prorank_jax.device_memory import peak_bytes
from prorank_jax.flops import measured_matmul_flops
from prorank_jax.reranker import Reranker


class OurSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Reads what is to be done; `prepare` loads the weights."""
        self.work, self.settings = work, read_settings(work)
        return {"facts": our_facts(self.settings)}

    def prepare(self) -> dict[str, Any]:
        """Loads the model as an evaluation does, and scores everything once, which compiles."""
        work, settings = self.work, self.settings
        self.clock = CompileClock()
        self.reranker = Reranker.from_pretrained(
            str(work / MODEL_FOLDER),
            batch_size=settings["ours"]["batch_size"],
            attention=settings["ours"]["attention"],
            compute_dtype=settings["dtype"],
            share_prefixes=True,
        )
        self.pairs = [(query, document) for query, document in settings["pairs"]]
        self.checked = settings["check"]
        self.scores = self.reranker.score_pairs(self.pairs)
        self.programs, seconds = self.clock.count, self.clock.seconds
        return {
            "facts": {
                "batch_size": settings["ours"]["batch_size"],
                "programs": self.programs,
                "flops_per_round": settings["flops_per_round"],
            },
            "compile_seconds": seconds,
        }

    def check(self) -> dict[str, Any]:
        """Scores of the checked pairs, from the call with all of them."""
        return {"values": self.scores[self.checked].astype(float).tolist()}

    def run_round(self) -> dict[str, Any]:
        """All pairs, from texts to scores."""
        started = time.perf_counter()
        scores = self.reranker.score_pairs(self.pairs)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "units": len(scores),
            "peak_bytes": peak_bytes(),
            "compiled_again": self.clock.count - self.programs,
        }

    def measure_yardstick(self) -> dict[str, Any]:
        """What large products reach here."""
        return {"facts": {"peak_flops": measured_matmul_flops(self.settings["dtype"])}}


if __name__ == "__main__":
    side = OurSide()
    serve(side.load, side.prepare, side.check, side.run_round, side.measure_yardstick)
