"""sentence-transformers' CrossEncoder as one side of the scoring benchmark; see side.py for what it answers.

The exported folder says how it is used: the prompt is a chat template, the score a difference of two logits
at the last position, the only one that is projected onto the vocabulary. `predict` sorts by length; the
batch size is the fastest of those that work.json names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import CrossEncoder
from side import MODEL_FOLDER, read_settings, serve
from torch_device import set_up_torch, torch_facts
from torch_scoring import TorchScoringSide


class SentenceTransformersSide(TorchScoringSide):
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Loads the folder."""
        self.settings = settings = read_settings(work)
        set_up_torch(settings)
        self.model = CrossEncoder(
            str(work / MODEL_FOLDER),
            model_kwargs={"dtype": getattr(torch, settings["dtype"])},
            local_files_only=True,
        )
        model = self.model[0].model
        self.pairs = list(map(tuple, settings["pairs"]))
        return {
            "facts": {
                "sentence-transformers": sentence_transformers.__version__,
                "transformers": transformers.__version__,
                **torch_facts(self.model.device),
                "dtype": str(model.dtype).removeprefix("torch."),
                "attention": model.config._attn_implementation,
            }
        }

    def scores(self, pairs: list[tuple[str, str]], batch_size: int) -> np.ndarray:
        """By its own `predict`."""
        return self.model.predict(pairs, batch_size=batch_size, show_progress_bar=False)


if __name__ == "__main__":
    side = SentenceTransformersSide()
    serve(side.load, side.prepare, side.check, side.run_round)
