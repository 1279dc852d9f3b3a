"""mxbai-rerank as one side of the scoring benchmark; see side.py for what it answers.

Its own class and its own path for many pairs, which sorts them by length; the batch size is the fastest of
those that work.json names.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mxbai_rerank import MxbaiRerankV2
from side import MODEL_FOLDER, read_settings, serve
from torch_device import set_up_torch, torch_facts
from torch_scoring import TorchScoringSide


class MxbaiSide(TorchScoringSide):
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Loads the model with the chat format and the room of all sides."""
        self.settings = settings = read_settings(work)
        set_up_torch(settings)
        frame = settings["frame"]
        MxbaiRerankV2.chat_template = {"prefix": frame["prefix"], "suffix": frame["suffix"]}
        self.model = MxbaiRerankV2(
            str(work / MODEL_FOLDER),
            torch_dtype=getattr(torch, settings["dtype"]),
            max_length=frame["room"],
            disable_transformers_warnings=True,
        )
        self.pairs = settings["pairs"]
        return {
            "facts": {
                "mxbai-rerank": version("mxbai-rerank"),
                "transformers": version("transformers"),
                **torch_facts(self.model.device),
                "dtype": str(self.model.model.dtype).removeprefix("torch."),
                "attention": self.model.model.config._attn_implementation,
            }
        }

    def scores(self, pairs: list[list[str]], batch_size: int) -> np.ndarray:
        """Not `rank`, which takes one query: what it calls takes pairs of many."""
        queries, documents = map(list, zip(*pairs, strict=True))
        return self.model._compute_scores(
            queries=queries, documents=documents, batch_size=batch_size, show_progress=False
        )


if __name__ == "__main__":
    side = MxbaiSide()
    serve(side.load, side.prepare, side.check, side.run_round)
