"""This project's stage 1 as one side of the benchmark; see side.py for what it answers."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository need not be installed

import jax
import jax.numpy as jnp
import numpy as np
import optax
from our_facts import our_facts
from our_prompts import padded_batch, plan_of_rows
from plain_grpo import first_update, norm_of, plain_log_probs, plain_step, share_in_moment
from side import MODEL_FOLDER, read_settings, serve

from prorank_jax.answer_logits import log_probs_of
from prorank_jax.config import GrpoOptions, MeshOptions, OptimizerOptions
from prorank_jax.device_memory import peak_bytes
from prorank_jax.flops import grpo_step_flops, measured_matmul_flops
from prorank_jax.grpo import policy_loss
from prorank_jax.models.attention import check_head_size, check_implementation
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import load_model_config, load_params
from prorank_jax.optimizer import make_optimizer, make_schedule
from prorank_jax.policy_gradient import Metrics
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import answer_reward
from prorank_jax.rollouts import replay_logits
from prorank_jax.sharding import batch_sharding, make_mesh, replicated
from prorank_jax.steps import make_grpo_step
from prorank_jax.train_state import init_state, pretrained_shardings, train_state_shardings
from prorank_jax.types import Batch, Params, Rollout, TrainState

Settings = dict[str, Any]
UPDATES = 10**6  # of a constant rate: how many changes nothing


class OurSide:
    """The state of this side between requests."""

    def load(self, work: Path) -> dict[str, Any]:
        """Reads what is to be done; `prepare` loads the weights."""
        self.work, self.settings = work, read_settings(work)
        self.row_plan = plan_of_rows(self.settings)
        return {"facts": our_facts(self.settings)}

    def prepare(self) -> dict[str, Any]:
        """Loads, compiles the one step, and takes it once beside a plain one."""
        work, settings = self.work, self.settings
        ours = settings["ours"]
        model = Transformer(
            load_model_config(work / MODEL_FOLDER),
            settings["dtype"],
            ours["remat"],
            attention=ours["attention"],
        )
        mesh = self.mesh = make_mesh(MeshOptions())
        check_implementation(model.attention, settings["dtype"], mesh)
        check_head_size(model.attention, model.config.head_dim)
        options, answers = grpo_options(settings), answer_tokens(settings)

        def load_weights() -> Params:
            return load_params(work / MODEL_FOLDER, model.config, pretrained_shardings(model, mesh))

        def begin() -> TrainState:
            return init_state(load_weights(), model, optimizer, shardings, settings["seed"])

        params = load_weights()
        self.values = checked_values(model, params, settings)
        self.reference = jax.tree.map(jnp.copy, params) if options.kl_coefficient else None
        rate = OptimizerOptions(
            learning_rate=settings["learning_rate"],
            schedule="constant",
            warmup_steps=0,
            b1=settings["b1"],
            b2=settings["b2"],
            eps=settings["eps"],
            max_grad_norm=settings["max_grad_norm"],
        )
        optimizer = make_optimizer(rate, UPDATES)
        reward = answer_reward(answers, options.format_weight, options.correct_weight)
        step = make_grpo_step(model, optimizer, make_schedule(rate, UPDATES), options, answers, reward, mesh)
        shardings = train_state_shardings(model, optimizer, mesh)
        del params
        self.state = begin()
        self.numbers = itertools.count()
        started = time.perf_counter()
        self.step = step.lower(self.state, self.reference, *self._inputs(0)).compile()
        compiled = time.perf_counter() - started
        self.state = None  # before others take as much memory
        self.own = self._compared_with_plain(model, load_weights, begin)
        self.state = begin()
        return {
            "facts": {
                "remat": model.remat,
                "attention": model.attention,
                "flops_per_round": self._flops_of_a_round(model, options),
            },
            "compile_seconds": compiled,
        }

    def check(self) -> dict[str, Any]:
        """Values of the given completions, and those of the timed step beside a plain one."""
        return {"values": self.values, **self.own}

    def run_round(self) -> dict[str, Any]:
        """One step: sampling, reward, update; the host's part of the batch included."""
        started = time.perf_counter()
        inputs = self._inputs(next(self.numbers))
        self.state, metrics, _ = self.step(self.state, self.reference, *inputs)
        jax.block_until_ready((self.state, metrics))
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "units": self.settings["prompts_per_step"],
            "peak_bytes": peak_bytes(),
        }

    def measure_yardstick(self) -> dict[str, Any]:
        """What large products reach here."""
        return {"facts": {"peak_flops": measured_matmul_flops(self.settings["dtype"])}}

    def _compared_with_plain(
        self, model: Transformer, load_weights: Callable[[], Params], begin: Callable[[], TrainState]
    ) -> dict[str, list[float]]:
        """What a first step says and does, and the same of its completions by `plain_grpo`.

        Both give reward, loss, gradient norm, how much of the plain gradient is in the step's, which is read
        from its first moment, and the log-probabilities of one prompt's completions after the update. The
        state is gone then: beside it the plain step would raise the peak of memory that is told.
        """
        settings = self.settings
        plain = model.clone(remat="full", attention="xla")
        batch, state, metrics, completions = self._first_step(begin)
        first = batch["prompts"][0], completions[0], settings
        timed = [float(metrics[name]) for name in ("reward", "loss", "grad_norm")]
        log_probs = plain_log_probs(plain, state.params, *first)
        moment = optax.tree_utils.tree_get(state.opt_state, "mu")
        del state
        params = load_weights()
        expected = plain_step(plain, params, batch, completions, settings)
        timed += [share_in_moment(expected.gradients, moment, settings), *log_probs]
        moved = first_update(params, expected.gradients, settings)
        norm = norm_of(expected.gradients)
        told = [expected.reward, expected.loss, norm, 1.0, *plain_log_probs(plain, moved, *first)]
        return {"timed": timed, "plain": told}

    def _first_step(
        self, begin: Callable[[], TrainState]
    ) -> tuple[dict[str, Any], TrainState, Metrics, np.ndarray]:
        """Steps from the initial weights, on a batch each, until one has a gradient; the last of them."""
        batches = self.settings["batches"]
        for number in range(len(batches)):
            state = None  # before the next one takes as much memory
            state, metrics, completions = self.step(begin(), self.reference, *self._inputs(number))
            if metrics["tied_groups"] < 1:
                break
        return batches[number], state, metrics, np.asarray(completions)

    def _flops_of_a_round(self, model: Transformer, options: GrpoOptions) -> int:
        rows = self._inputs(0)[0].rows
        return grpo_step_flops(
            model.config, options, self.settings["prompts_per_step"], self.settings["width"], rows
        )

    def _inputs(self, number: int) -> tuple[Batch, jax.Array]:
        batches = self.settings["batches"]
        batch = batches[number % len(batches)]
        rows = padded_batch(batch["prompts"], batch["labels"], self.settings["width"], self.row_plan)
        key = jax.random.fold_in(jax.random.key(self.settings["seed"]), number)
        where = batch_sharding(self.mesh), replicated(self.mesh)
        return jax.device_put((rows, key), where)


def grpo_options(settings: Settings) -> GrpoOptions:
    """What both sides share, without this project's additions: every group counts, nothing is forced."""
    return GrpoOptions(
        group_size=settings["group_size"],
        max_new_tokens=settings["new_tokens"],
        temperature=settings["temperature"],
        advantage="mean",
        clip_low=settings["clip_low"],
        clip_high=settings["clip_high"],
        kl_coefficient=settings["kl_coefficient"],
        kl_estimator="k3",
        entropy_coefficient=0.0,
        format_weight=settings["format_weight"],
        correct_weight=settings["correct_weight"],
        forced_ends=0,
        mask_tied_groups=False,
    )


def answer_tokens(settings: Settings) -> AnswerTokens:
    """The ids of the answers and of the end of a turn."""
    return AnswerTokens(**settings["answers"])


def checked_values(model: Transformer, params: Params, settings: Settings) -> list[float]:
    """Log-probabilities, loss and gradient norm of given completions, by the functions of training."""
    given, options, answers = settings["check"], grpo_options(settings), answer_tokens(settings)
    prompts = given["prompts"]
    batch = padded_batch(prompts, [0] * len(prompts), max(map(len, prompts)))
    tokens, mask = np.array(given["completions"], np.int32), np.array(given["mask"], np.float32)
    advantages = np.array(given["advantages"], np.float32)

    def loss_of(params: Params, offsets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = replay_logits(model, params, batch, tokens, options.temperature)
        log_probs = log_probs_of(logits, tokens)
        rollout = Rollout(
            tokens=tokens,
            mask=mask,
            log_probs=jax.lax.stop_gradient(log_probs) + offsets,
            rewards=advantages,
            advantages=advantages,
            tied=np.zeros(len(tokens), bool),
        )
        reference = jax.lax.stop_gradient(logits) if options.kl_coefficient else None
        return policy_loss(logits, rollout, answers, options, reference)[0], log_probs

    values_of = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, log_probs), gradients = values_of(params, np.array(given["log_prob_offsets"], np.float32))
    norm = optax.global_norm(gradients)
    return [*np.ravel(log_probs * mask).tolist(), float(loss), float(norm)]


if __name__ == "__main__":
    side = OurSide()
    serve(side.load, side.prepare, side.check, side.run_round, side.measure_yardstick)
