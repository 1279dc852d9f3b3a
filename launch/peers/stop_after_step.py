"""A callback that lets a trainer of transformers take one step a round; see stepper.py."""

from __future__ import annotations

from typing import Any

import torch
from stepper import Stepper
from transformers import TrainerCallback


class StopAfterStep(TrainerCallback):
    """Waits for the next round before the first step and after each update."""

    stepper: Stepper

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Waits for the first round."""
        self.stepper.arrive()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Lets the device finish, then waits for the next round."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stepper.arrive()
