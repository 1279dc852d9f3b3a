"""sentence-transformers' CrossEncoderTrainer as one side of the stage 2 benchmark; see side.py.

Its own training loop with ListNetLoss on the exported folder: the score is a difference of two logits at the
last position, the only one that is projected onto the vocabulary. Settings in its favour: fused AdamW, no
logging, padding to the longest prompt of a forward pass, and as many pairs in one as is fastest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import ListNetLoss
from side import MODEL_FOLDER, read_settings, serve
from stepper import Stepper
from stop_after_step import StopAfterStep
from torch.utils.data import SequentialSampler
from torch_device import (
    computed_dtype,
    forget_peak,
    set_up_torch,
    torch_facts,
    torch_peak_bytes,
    tuning_options,
)
from tuning import fastest

Settings = dict[str, Any]
# Each would end an epoch of the trainer, where it makes its iterators anew.
_ROUNDS_OF_AN_EPOCH = 100


class RecordedLoss(ListNetLoss):
    """The loss, which keeps its values."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The mean over the lists of a batch."""
        loss = super().forward(*args, **kwargs)
        self.values.append(loss.detach())
        return loss

    def __init__(self, model: CrossEncoder) -> None:
        """Takes the model whose scores it reads."""
        super().__init__(model)
        self.values: list[torch.Tensor] = []


class InOrder(CrossEncoderTrainer):
    """The trainer with batches in the order of the data set, and without a model card."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none: it would tokenize the queries as chats of one text each, for its statistics."""

    def get_batch_sampler(self, dataset: Dataset, batch_size: int, drop_last: bool, **more: Any) -> Any:
        """Epoch after epoch the same batches."""
        return DefaultBatchSampler(
            SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last, **more
        )


class SentenceTransformersSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Builds the trainer."""
        self.settings = settings = read_settings(work)
        set_up_torch(settings)
        self.model = CrossEncoder(
            str(work / MODEL_FOLDER), model_kwargs={"dtype": torch.float32}, local_files_only=True
        )
        self.loss = RecordedLoss(self.model)
        callback = StopAfterStep()
        trainer = make_trainer(self.model, self.loss, settings, callback)
        callback.stepper = self.stepper = Stepper(trainer.train)
        model = self.model[0].model
        return {
            "facts": {
                "sentence-transformers": sentence_transformers.__version__,
                "transformers": transformers.__version__,
                **torch_facts(self.model.device),
                "dtype": computed_dtype(trainer.accelerator, model),
                "attention": model.config._attn_implementation,
                "optimizer": trainer.args.optim,
            }
        }

    def prepare(self) -> dict[str, Any]:
        """Chooses how many pairs run at once."""
        at_once, seconds = self._choose_pairs_at_once()
        forget_peak()
        return {
            "facts": {"pairs_at_once": at_once, "seconds_by_pairs_at_once": seconds},
            "compile_seconds": 0.0,
        }

    def check(self) -> dict[str, Any]:
        """The first step's gradient norm, and the loss of each step of a round, from the initial weights."""
        norm = self._gradient_norm()
        self.run_round()
        return {"values": [norm, *(float(value) for value in self.loss.values)]}

    def run_round(self) -> dict[str, Any]:
        """The steps of a round."""
        self.loss.values.clear()
        seconds = sum(self.stepper.step() for _ in range(self.settings["steps"]))
        return {
            "seconds": seconds,
            "units": len(self.settings["lists"]),
            "peak_bytes": torch_peak_bytes(),
        }

    def _choose_pairs_at_once(self) -> tuple[int, dict[str, float]]:
        """The fastest of 1, 2, 4, ... and all pairs of a step, by the first one's forward and backward."""

        def run(pairs: int) -> None:
            self.loss.mini_batch_size = pairs
            self._run_backward()
            self.model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.synchronize()

        pairs = sum(len(one["documents"]) for one in self._first_lists())
        chosen, seconds = fastest(list(_powers(pairs)), run, **tuning_options())
        self.loss.mini_batch_size = chosen
        return chosen, seconds

    def _gradient_norm(self) -> float:
        """Of the first step's loss, before it is clipped."""
        self._run_backward()
        norms = [
            torch.linalg.vector_norm(p.grad.float()) for p in self.model.parameters() if p.grad is not None
        ]
        self.model.zero_grad()
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def _run_backward(self) -> None:
        lists, device = self._first_lists(), self.model.device
        inputs = [[one["query"] for one in lists], [one["documents"] for one in lists]]
        labels = [torch.tensor(one["labels"], device=device) for one in lists]
        self.model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings["dtype"] == "bfloat16"):
            loss = self.loss(inputs, labels)
        loss.backward()

    def _first_lists(self) -> list[Settings]:
        return self.settings["lists"][: self.settings["lists_per_step"]]


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, ... below `most`, then `most`."""
    pairs = 1
    while pairs < most:
        yield pairs
        pairs *= 2
    yield most


def make_trainer(
    model: CrossEncoder, loss: ListNetLoss, settings: Settings, callback: StopAfterStep
) -> InOrder:
    """The trainer of this work, on the GPU if torch sees one."""
    options = CrossEncoderTrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="sentence-transformers-"),
        use_cpu=not torch.cuda.is_available(),
        bf16=settings["dtype"] == "bfloat16",
        seed=settings["seed"],
        max_steps=10**6,
        per_device_train_batch_size=settings["lists_per_step"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=settings["b1"],
        adam_beta2=settings["b2"],
        adam_epsilon=settings["eps"],
        max_grad_norm=settings["max_grad_norm"],
        optim="adamw_torch_fused",
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    lists = settings["lists"] * _ROUNDS_OF_AN_EPOCH
    columns = {name: [one[name] for one in lists] for name in ("query", "documents", "labels")}
    data = Dataset.from_dict(columns)
    return InOrder(model=model, args=options, train_dataset=data, loss=loss, callbacks=[callback])


if __name__ == "__main__":
    side = SentenceTransformersSide()
    serve(side.load, side.prepare, side.check, side.run_round)
