"""TRL's GRPOTrainer as one side of the stage 1 benchmark; see side.py for what it answers.

Its own training loop, settings in its favour: no reference model without a KL term, no gradient
checkpointing, no logging, prompts tokenized beforehand (as on our side), scaled-dot-product attention, and
as many sequences in a micro-batch as `peer_batch` of work.json says. That it decodes completions to texts for
its reward functions is its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from answer_reward import answer_reward
from datasets import Dataset
from side import MODEL_FOLDER, read_settings, serve
from stepper import Stepper
from stop_after_step import StopAfterStep
from torch_device import computed_dtype, set_up_torch, torch_facts, torch_peak_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer

Settings = dict[str, Any]


class KnownPrompts(trl.GRPOTrainer):
    """The trainer for prompts whose token ids are known: a prompt's text is its number."""

    known: list[list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.known[int(prompt)] for prompt in prompts], None, {}


class TrlSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Builds the trainer."""
        self.settings = settings = read_settings(work)
        set_up_torch(settings)
        callback = StopAfterStep()
        self.trainer = make_trainer(work / MODEL_FOLDER, settings, callback)
        callback.stepper = self.stepper = Stepper(self.trainer.train)
        accelerator = self.trainer.accelerator
        return {
            "facts": {
                "trl": trl.__version__,
                "transformers": transformers.__version__,
                **torch_facts(accelerator.device),
                "dtype": computed_dtype(accelerator, self.trainer.model),
                "micro_batch": self.trainer.args.per_device_train_batch_size,
                "attention": self.trainer.model.config._attn_implementation,
            }
        }

    def prepare(self) -> dict[str, Any]:
        """Computes the checked values, which training would change."""
        self.values = checked_values(self.trainer, self.settings["check"])
        return {"facts": {}, "compile_seconds": 0.0}

    def check(self) -> dict[str, Any]:
        """Log-probabilities, loss and gradient norm of the given completions."""
        return {"values": self.values}

    def run_round(self) -> dict[str, Any]:
        """One step: sampling, reward, update."""
        seconds = self.stepper.step()
        return {
            "seconds": seconds,
            "units": self.settings["prompts_per_step"],
            "peak_bytes": torch_peak_bytes(),
        }


def make_trainer(model_folder: Path, settings: Settings, callback: StopAfterStep) -> KnownPrompts:
    """The trainer of this work, on the GPU if torch sees one."""
    bfloat16, on_gpu = settings["dtype"] == "bfloat16", torch.cuda.is_available()
    parts = settings["prompts_per_step"] * settings["group_size"] // settings["peer_batch"]
    options = trl.GRPOConfig(
        output_dir=str(model_folder.parent / "trl"),
        use_cpu=not on_gpu,
        bf16=bfloat16,
        seed=settings["seed"],
        max_steps=10**6,
        per_device_train_batch_size=settings["peer_batch"],
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_iterations=1,
        num_generations=settings["group_size"],
        max_completion_length=settings["new_tokens"],
        temperature=settings["temperature"],
        top_k=0,
        top_p=1.0,
        beta=settings["kl_coefficient"],
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        loss_type="dapo",
        scale_rewards="none",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=settings["b1"],
        adam_beta2=settings["b2"],
        adam_epsilon=settings["eps"],
        max_grad_norm=settings["max_grad_norm"],
        gradient_checkpointing=False,
        shuffle_dataset=False,
        disable_dropout=True,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(settings["answers"]["end"])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(settings["padding_token"])
    prompts = [prompt for batch in settings["batches"] for prompt in batch["prompts"]]
    labels = [label for batch in settings["batches"] for label in batch["labels"]]
    trainer = KnownPrompts(
        model=AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=torch.float32, attn_implementation="sdpa"
        ),
        reward_funcs=make_reward(settings),
        args=options,
        train_dataset=Dataset.from_dict({"prompt": list(map(str, range(len(prompts)))), "label": labels}),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.known = prompts
    return trainer


def make_reward(settings: Settings) -> Any:
    """The reward function of this work, as TRL calls it."""

    def reward(completion_ids: list[list[int]], label: list[int], **_: Any) -> list[float]:
        pairs = zip(completion_ids, label, strict=True)
        return [answer_reward(ids, wanted, settings) for ids, wanted in pairs]

    return reward


def checked_values(trainer: KnownPrompts, given: dict[str, Any]) -> list[float]:
    """Log-probabilities, loss and gradient norm by the trainer's own functions, without accumulation."""
    model, device = trainer.model, trainer.accelerator.device
    model.eval()
    group = len(given["completions"][0])
    prompts = [prompt for prompt in given["prompts"] for _ in range(group)]
    width = max(map(len, prompts))
    pad = trainer.processing_class.pad_token_id
    prompt_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
    prompt_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    completions = torch.tensor(given["completions"], device=device).flatten(0, 1)
    mask = torch.tensor(given["mask"], device=device).flatten(0, 1)
    both = torch.cat([prompt_ids, completions], dim=1), torch.cat([prompt_mask, mask], dim=1)
    with torch.no_grad():
        log_probs, _, _ = trainer._get_per_token_logps_and_entropies(model, *both, completions.shape[1])
    offsets = torch.tensor(given["log_prob_offsets"], device=device).flatten(0, 1)
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": torch.tensor(given["advantages"], device=device).flatten(),
        "old_per_token_logps": log_probs + offsets,
        "ref_per_token_logps": log_probs,
        "num_items_in_batch": mask.sum(),
    }
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    model.zero_grad()
    model.train()
    return [*(log_probs * mask).flatten().tolist(), loss.item(), norm.item()]


if __name__ == "__main__":
    side = TrlSide()
    serve(side.load, side.prepare, side.check, side.run_round)
