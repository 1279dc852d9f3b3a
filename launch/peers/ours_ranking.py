"""This project's stage 2 as one side of the benchmark; see side.py for what it answers.

Training tokenizes a data set once, before its steps. The peer's does so in every step, so this side renders
the prompts of a step inside its time too, right before the step. jax gives control back while the device
computes, so that from the second step of a round on this overlaps with the one before.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository need not be installed

import jax
import numpy as np
from compile_clock import CompileClock
from our_facts import our_facts
from rich.console import Console
from side import read_settings, serve

from prorank_jax.config_files import config_from_flat, flatten
from prorank_jax.device_memory import peak_bytes
from prorank_jax.flops import measured_matmul_flops, trained_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.prompts import PromptRenderer
from prorank_jax.setup import prepare_run
from prorank_jax.sharding import put_batch
from prorank_jax.types import ListBatch


class OurSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Reads what is to be done; `prepare` loads the weights."""
        self.settings = read_settings(work)
        return {"facts": our_facts(self.settings)}

    def prepare(self) -> dict[str, Any]:
        """Sets the run up as training does, and takes a step of each shape with a state of its own."""
        settings = self.settings
        self.clock = CompileClock()
        config = config_from_flat(flatten(settings["ours"]["config"]), "work.json")
        self.run = run = prepare_run(config, Console(stderr=True))
        self.key = jax.random.key(config.train.seed)
        self.batches = run.stage.batches()
        self.start = self.batches.get_state()
        ahead = [next(self.batches) for _ in range(settings["steps"])]
        self.state = run.init_state(run.load_initial_params())
        for batch in {(batch.tokens.shape, batch.row_tokens): batch for batch in ahead}.values():
            self._step(batch)
        jax.block_until_ready(self.state)
        self.state = None  # before its successor takes as much memory
        self.state = run.init_state(run.load_initial_params())
        self.programs, seconds = self.clock.count, self.clock.seconds
        return {
            "facts": {
                "remat": config.model.remat,
                "shapes": sorted({batch.tokens.shape for batch in ahead}),
                "flops_per_round": sum(least_flops(run.model_config, batch) for batch in ahead),
            },
            "compile_seconds": seconds,
        }

    def check(self) -> dict[str, Any]:
        """The first step's gradient norm, and the loss of each step of a round, from the initial weights."""
        metrics = self._train()
        return {"values": [metrics[0]["grad_norm"], *(one["loss"] for one in metrics)]}

    def run_round(self) -> dict[str, Any]:
        """The steps of a round: batches by the pipeline, and their prompts from texts."""
        started = time.perf_counter()
        self._train()
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "units": len(self.settings["lists"]),
            "peak_bytes": peak_bytes(),
            "compiled_again": self.clock.count - self.programs,
        }

    def measure_yardstick(self) -> dict[str, Any]:
        """What large products reach here."""
        return {"facts": {"peak_flops": measured_matmul_flops(self.settings["dtype"])}}

    def _train(self) -> list[dict[str, float]]:
        self.batches.set_state(self.start)
        lists = iter(self.settings["lists"])
        metrics = []
        for batch in itertools.islice(self.batches, self.settings["steps"]):
            texts = list(itertools.islice(lists, self.settings["lists_per_step"]))
            metrics.append(self._step(rendered_now(batch, texts, self.run.renderer)))
        jax.block_until_ready(self.state)
        return [{name: float(value) for name, value in one.items()} for one in jax.device_get(metrics)]

    def _step(self, batch: ListBatch) -> dict[str, jax.Array]:
        with jax.set_mesh(self.run.mesh):
            on_mesh = put_batch(batch, self.run.mesh)
            self.state, metrics, _ = self.run.stage.step(self.state, None, on_mesh, self.key)
        return metrics


def rendered_now(batch: ListBatch, lists: Sequence[dict[str, Any]], renderer: PromptRenderer) -> ListBatch:
    """The batch with its token ids made anew from the texts of its lists."""
    pairs = [(one["query"], document) for one in lists for document in one["documents"]]
    prompts = iter(renderer.render_batch(pairs))
    prefix, tokens = np.zeros_like(batch.prefix), np.zeros_like(batch.tokens)
    for row, shared in enumerate(np.asarray(batch.prefix_lengths).tolist()):
        for place in np.flatnonzero(batch.mask[row]):
            prompt = next(prompts)
            prefix[row, :shared] = prompt[:shared]
            tokens[row, place, : len(prompt) - shared] = prompt[shared:]
    return batch.replace(prefix=prefix, tokens=tokens)


def least_flops(config: ModelConfig, batch: ListBatch) -> int:
    """FLOPs of a step without padding; what remat recomputes is not counted."""
    prefixes = np.asarray(batch.prefix_lengths).tolist()
    rests = [lengths[real].tolist() for lengths, real in zip(batch.lengths, batch.mask, strict=True)]
    return sum(
        trained_flops(config, prefix, prefix, 0)
        + sum(trained_flops(config, one, prefix + one, 1) for one in rest)
        for prefix, rest in zip(prefixes, rests, strict=True)
    )


if __name__ == "__main__":
    side = OurSide()
    serve(side.load, side.prepare, side.check, side.run_round, side.measure_yardstick)
