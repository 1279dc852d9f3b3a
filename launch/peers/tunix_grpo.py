"""Tunix's GRPOLearner as one side of the stage 1 benchmark; see side.py for what it answers.

Its own model class, sampler and training loop, settings in its favour: no reference model without a KL
term, prompts tokenized beforehand, one prompt length so that nothing is compiled twice, and as many
prompts in a micro-batch as `peer_batch` of work.json has sequences of whole groups.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from answer_reward import answer_reward
from flax import nnx
from side import MODEL_FOLDER, peak_bytes, read_settings, serve
from stepper import Stepper
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.rl import common, function_registry, rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner, TrainExample
from tunix.rl.rollout.base_rollout import RolloutConfig

Settings = dict[str, Any]


class KnownTokens:
    """A tokenizer whose texts are token ids in decimal, so that prompts arrive as they are."""

    def __init__(self, end: int, padding: int) -> None:
        """Takes the ids of the end of a turn and of the padding."""
        self._end, self._padding = end, padding

    def encode(self, text: str, **_: Any) -> list[int]:
        """`"5 7"` → [5, 7]."""
        return [int(part) for part in str(text).split()]

    def decode(self, ids: Any, **_: Any) -> str:
        """[5, 7] → `"5 7"`."""
        return " ".join(str(int(token)) for token in ids)

    def bos_id(self) -> int:
        """No token: the prompts are complete."""
        return 0

    def eos_id(self) -> int:
        """The end of a turn."""
        return self._end

    def pad_id(self) -> int:
        """A token that no prompt has."""
        return self._padding


class TunixSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Loads the policy, and the reference where there is one."""
        self.settings = settings = read_settings(work)
        self.mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        self.reference = None
        with self.mesh:
            self.model = load_model(work / MODEL_FOLDER, settings, self.mesh)
            if settings["kl_coefficient"]:
                self.reference = load_model(work / MODEL_FOLDER, settings, self.mesh)
        return {
            "facts": {
                "tunix": version("google-tunix"),
                "jax": jax.__version__,
                "device": jax.devices()[0].device_kind,
                "dtype": str(jax.tree.leaves(nnx.state(self.model, nnx.Param))[0].dtype),
                "precision": jax.config.jax_default_matmul_precision,
                "micro_batch": _whole_groups(settings) * settings["group_size"],
            }
        }

    def prepare(self) -> dict[str, Any]:
        """Checks, and takes one step, which compiles."""
        with self.mesh:
            self.values = checked_values(self.model, self.settings)
            self.learner = make_learner(self.model, self.reference, self.settings, self.mesh)
        self.stepper = Stepper(self._train)
        started = time.perf_counter()
        self.stepper.step()
        return {
            "facts": {"compile_seconds_are": "the first step, compilation included"},
            "compile_seconds": time.perf_counter() - started,
        }

    def check(self) -> dict[str, Any]:
        """Log-probabilities, loss and gradient norm of the given completions."""
        return {"values": self.values}

    def run_round(self) -> dict[str, Any]:
        """One step: sampling, reward, update."""
        seconds = self.stepper.step()
        statistics = jax.devices()[0].memory_stats() or {}
        peak = statistics.get("peak_bytes_in_use") or peak_bytes()
        return {"seconds": seconds, "units": self.settings["prompts_per_step"], "peak_bytes": peak}

    def _train(self) -> None:
        self.learner.train(self._batches())

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Prompts of each step; before it gives the next, it waits for the device and then for a round."""
        number = 0
        batches = self.settings["batches"]
        while True:
            jax.block_until_ready(nnx.state(self.learner.rl_cluster.actor_trainer.model))
            self.stepper.arrive()
            batch = batches[number % len(batches)]
            number += 1
            yield {
                "prompts": [" ".join(map(str, prompt)) for prompt in batch["prompts"]],
                "label": np.asarray(batch["labels"]),
            }


def load_model(folder: Path, settings: Settings, mesh: jax.sharding.Mesh) -> llama.Llama3:
    """Tunix's Llama with the weights of a Hugging Face folder, in float32 or bfloat16 throughout.

    Raises:
        ValueError: the folder holds another architecture.
    """
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if shape["model_type"] != "llama":
        raise ValueError(f"model_type={shape['model_type']!r}: this side loads Llama; choose --peer trl")
    # The class never passes its rope_theta on (0.1.7), so the function it calls gets it here.
    theta = shape.get("rope_theta") or shape["rope_parameters"]["rope_theta"]
    llama.apply_rope = functools.partial(llama.apply_rope, rope_theta=float(theta))
    heads = shape["num_attention_heads"]
    config = llama.ModelConfig(
        num_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        num_heads=heads,
        head_dim=shape.get("head_dim") or shape["hidden_size"] // heads,
        num_kv_heads=shape["num_key_value_heads"],
        rope_theta=theta,
        norm_eps=shape["rms_norm_eps"],
        weight_tying=shape["tie_word_embeddings"],
    )
    dtype = jnp.dtype(settings["dtype"])
    return llama_params.create_model_from_safe_tensors(str(folder), config, mesh, dtype)


def algorithm(settings: Settings) -> GRPOConfig:
    """GRPO with the settings that both sides share: advantages without division, averages over tokens."""
    return GRPOConfig(
        num_generations=settings["group_size"],
        num_iterations=1,
        beta=settings["kl_coefficient"],
        kl_loss_mode="low_var_kl",
        epsilon=settings["clip_low"],
        advantage_estimator="drgrpo",
        loss_agg_mode="token-mean",
    )


def make_learner(
    model: llama.Llama3, reference: llama.Llama3 | None, settings: Settings, mesh: jax.sharding.Mesh
) -> GRPOLearner:
    """The learner of this work, everything on one mesh."""
    groups = _whole_groups(settings)
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings["max_grad_norm"]),
        optax.adamw(
            settings["learning_rate"],
            b1=settings["b1"],
            b2=settings["b2"],
            eps=settings["eps"],
            weight_decay=0.0,
        ),
    )
    answers, length = settings["answers"], settings["width"] + settings["new_tokens"]
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=model,
        reference=reference,
        tokenizer=KnownTokens(answers["end"], settings["padding_token"]),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine="vanilla",
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optimizer,
                eval_every_n_steps=10**9,
                max_steps=10**6,
                mini_batch_size=settings["prompts_per_step"],
                train_micro_batch_size=groups,
                rollout_micro_batch_size=groups,
                compute_logps_micro_batch_size=groups,
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=settings["new_tokens"],
                max_prompt_length=settings["width"],
                kv_cache_size=length,
                temperature=settings["temperature"],
                top_p=1.0,
                top_k=None,
                eos_tokens=[answers["end"]],
            ),
        ),
    )
    return GRPOLearner(rl_cluster=cluster, algo_config=algorithm(settings), reward_fns=make_reward(settings))


def _whole_groups(settings: Settings) -> int:
    """Prompts of a micro-batch, which is made of whole groups."""
    return settings["peer_batch"] // settings["group_size"]


def make_reward(settings: Settings) -> Any:
    """The reward function of this work, as Tunix calls it; see `KnownTokens` for its texts."""

    def reward(prompts: list[str], completions: list[str], label: Any, **_: Any) -> list[float]:
        del prompts
        pairs = zip(completions, label, strict=True)
        return [
            answer_reward([int(part) for part in text.split()], int(wanted), settings)
            for text, wanted in pairs
        ]

    return reward


def checked_values(model: llama.Llama3, settings: Settings) -> list[float]:
    """Log-probabilities, loss and gradient norm by Tunix's own functions."""
    given, pad, end = settings["check"], settings["padding_token"], settings["answers"]["end"]
    group = len(given["completions"][0])
    prompts = [prompt for prompt in given["prompts"] for _ in range(group)]
    width = max(map(len, prompts))
    prompt_ids = jnp.array([[pad] * (width - len(ids)) + ids for ids in prompts])
    mask = jnp.concatenate([jnp.array(rows) for rows in given["mask"]])
    completions = jnp.where(
        mask > 0, jnp.concatenate([jnp.array(rows) for rows in given["completions"]]), pad
    )
    graph, state = nnx.split(model)
    log_probs = common.compute_per_token_logps(
        graph, state, prompt_tokens=prompt_ids, completion_tokens=completions, pad_id=pad, eos_id=end
    )
    offsets = jnp.concatenate([jnp.array(rows) for rows in given["log_prob_offsets"]])
    example = TrainExample(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_ids != pad,
        completion_ids=completions,
        completion_mask=mask,
        advantages=jnp.array(given["advantages"]).reshape(-1),
        ref_per_token_logps=log_probs if settings["kl_coefficient"] else None,
        old_per_token_logps=log_probs + offsets,
    )
    config = algorithm(settings)
    config.temperature = settings["temperature"]
    loss_function = function_registry.get_policy_loss_fn(config.policy_loss_fn)

    def loss_of(model: llama.Llama3) -> tuple[jax.Array, Any]:
        return loss_function(model, example, algo_config=config, pad_id=pad, eos_id=end)

    (loss, _), gradients = nnx.value_and_grad(loss_of, has_aux=True)(model)
    norm = optax.global_norm(jax.tree.leaves(gradients))
    return [*(log_probs * mask).reshape(-1).tolist(), float(loss), float(norm)]


if __name__ == "__main__":
    side = TunixSide()
    serve(side.load, side.prepare, side.check, side.run_round)
