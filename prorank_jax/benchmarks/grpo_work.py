"""The work of the stage 1 benchmark: real prompts, one reward, and completions to check both sides on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prorank_jax.benchmarks.options import ATTENTION_HELP, BenchmarkOptions, attention_of
from prorank_jax.benchmarks.work import shared_settings, unused_token, write_model, write_settings
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, REMAT_POLICIES, DataOptions
from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.data import open_dataset, train_iterator
from prorank_jax.evaluation.names import PARTS, naming, parse_dataset
from prorank_jax.prompts import AnswerTokens, make_renderer

WHOLE_GROUPS_ONLY = "tunix"  # the peer whose micro-batches are of prompts
BATCHES = 8
CHECKED_PROMPTS, CHECKED_GROUP = 2, 4
WIDTH_MULTIPLE = 16
LARGEST_OFFSET = 0.4  # of log-probabilities: ratios from 0.67 to 1.5, on both sides of the clip


@dataclass(frozen=True)
class GrpoWork:
    """The size of a step of stage 1; checked when built.

    Attributes:
        prompts: of a step, half of them relevant.
        group_size: completions G of each prompt.
        new_tokens: longest completion; 2 holds an answer and the end of the turn.
        kl_coefficient: weight of the k3 estimate of KL to the initial policy; 0: none.
        peer_batches: sequences in a micro-batch of the peer; of several, the fastest is taken.
        remat: what our backward pass recomputes, as `model.remat` of a run.
        attention: of our side, as `model.attention` of a run.
    """

    prompts: int = 8
    group_size: int = 16
    new_tokens: int = 2
    kl_coefficient: float = 0.0
    peer_batches: tuple[int, ...] = (16, 128)
    remat: str = "dots_no_batch"
    attention: str = "xla"

    def __post_init__(self) -> None:
        remedy = "an even number above 0: half of the prompts are relevant"
        require(self.prompts > 0 and self.prompts % 2 == 0, "prompts", self.prompts, remedy)
        require_at_least("group_size", self.group_size, 2)
        require_at_least("new_tokens", self.new_tokens, 1)
        require_at_least("kl", self.kl_coefficient, 0.0)
        require_choice("remat", self.remat, REMAT_POLICIES)
        require_choice("attention", self.attention, ATTENTION_IMPLEMENTATIONS)
        sequences = self.prompts * self.group_size
        divides = all(size > 0 and sequences % size == 0 for size in self.peer_batches)
        remedy = f"each must divide the {sequences} sequences of a step (prompts times group_size)"
        require(divides and bool(self.peer_batches), "peer_batch", list(self.peer_batches), remedy)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this task has."""
    add = parser.add_argument
    add("--prompts", type=int, help="prompts of a step (8)")
    add("--group_size", type=int, help="completions of a prompt (16)")
    add("--new_tokens", type=int, default=2, help="longest completion in tokens (%(default)s)")
    add("--kl", type=float, default=0.0, help="weight of the KL term (%(default)s)")
    tried = "sequences in a micro-batch of the peer; it takes the fastest (one group and the whole step)"
    add("--peer_batch", type=int, nargs="+", help=tried)
    add("--remat", default=GrpoWork.remat, help="what our backward pass recomputes (%(default)s)")
    add("--attention", help=ATTENTION_HELP)


def work_from(given: argparse.Namespace) -> GrpoWork:
    """The work that a parsed command line asks for.

    Raises:
        ValueError: a value that cannot work.
    """
    small = GrpoWork(prompts=2, group_size=4, peer_batches=(4,)) if given.quick else GrpoWork()
    group = small.group_size if given.group_size is None else given.group_size
    prompts = small.prompts if given.prompts is None else given.prompts
    tried = given.peer_batch or ((group,) if given.quick else group_and_step(prompts, group))
    if given.peer == WHOLE_GROUPS_ONLY and group > 0:
        remedy = f"{given.peer} cuts between groups only: give multiples of group_size={group}"
        require(all(size % group == 0 for size in tried), "peer_batch", list(tried), remedy)
    return GrpoWork(
        prompts=prompts,
        group_size=group,
        new_tokens=given.new_tokens,
        kl_coefficient=given.kl,
        peer_batches=tuple(tried),
        remat=given.remat,
        attention=attention_of(given),
    )


def group_and_step(prompts: int, group: int) -> tuple[int, ...]:
    """Sequences of one group and of a whole step: few, as trying one takes the peer two steps or three."""
    return tuple(dict.fromkeys((group, prompts * group)))


def write_grpo_work(options: BenchmarkOptions, size: GrpoWork, work: Path) -> dict[str, Any]:
    """Writes the model and `work.json`; returns the settings.

    Raises:
        ValueError: no such model or collection, or too few examples for a batch.
    """
    dataset = parse_dataset(options.dataset)
    tokenizer = write_model(options, work)
    renderer = make_renderer(tokenizer, max_length=options.max_length, system=options.system)
    data = DataOptions(source=dataset.source, split=dataset.split, max_length=options.max_length)
    with naming(dataset):
        examples = open_dataset(
            dataset.source, dataset.split, data, renderer, work / "data", options.seed, fields=PARTS
        )
    iterator = train_iterator(
        examples, batch_size=size.prompts, seed=options.seed, buckets=(options.max_length,)
    )
    batches = [
        {
            "prompts": [
                row[:length].tolist() for row, length in zip(batch.tokens, batch.lengths, strict=True)
            ],
            "labels": np.asarray(batch.labels).tolist(),
        }
        for batch in (next(iterator) for _ in range(BATCHES))
    ]
    settings = shared_settings(options)
    settings |= grpo_settings(
        size, batches, renderer.answer_tokens, options.seed, begins_alike=len(renderer.prefix)
    )
    write_settings(work, settings)
    return settings


def grpo_settings(
    size: GrpoWork,
    batches: Sequence[dict[str, Any]],
    answers: AnswerTokens,
    seed: int,
    *,
    begins_alike: int = 0,
) -> dict[str, Any]:
    """What stage 1's sides read: the same algorithm for both, without what only one of them has.

    Advantages are rewards minus the group's mean, the loss is the average over all completion tokens, the
    clip is the same on both sides, and nothing is forced, masked or added for entropy.

    Args:
        batches: `prompts`, lists of token ids, and `labels` of each step.
        begins_alike: tokens of the template that each prompt begins with.
    """
    prompts = [prompt for batch in batches for prompt in batch["prompts"]]
    longest = max(map(len, prompts))
    ends = (answers.zero, answers.one, answers.end)
    return {
        "prompts_per_step": size.prompts,
        "group_size": size.group_size,
        "new_tokens": size.new_tokens,
        "peer_batch": size.peer_batches[0],
        "peer_batches": list(size.peer_batches),
        "temperature": 1.0,
        "kl_coefficient": size.kl_coefficient,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "learning_rate": 1e-6,
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "max_grad_norm": 1.0,
        "format_weight": 0.5,
        "correct_weight": 1.0,
        "answers": {"zero": answers.zero, "one": answers.one, "end": answers.end},
        "padding_token": unused_token(prompts, ends),
        "width": -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE,
        "batches": list(batches),
        "check": checked_completions(prompts[:CHECKED_PROMPTS], size.new_tokens, ends, seed),
        "ours": {"remat": size.remat, "attention": size.attention, "begins_alike": begins_alike},
    }


def checked_completions(
    prompts: Sequence[Sequence[int]], new_tokens: int, choices: Sequence[int], seed: int
) -> dict[str, Any]:
    """Completions with advantages, and offsets from which each side makes old log-probabilities of its own.

    With the log-probabilities of the policy itself, every ratio would be 1 and the loss of centred
    advantages near 0 whatever the policy says.

    Args:
        choices: tokens that completions are made of; the last one ends them.

    Returns:
        `prompts`; `completions` and `mask` [B, G, L], 1 up to and including the first end; `advantages`
        [B, G]; `log_prob_offsets` [B, G, L], what to add to the log-probabilities.
    """
    rng = np.random.default_rng(seed)
    shape = (len(prompts), CHECKED_GROUP, new_tokens)
    completions = rng.choice(choices, shape)
    ended = np.cumsum(completions == choices[-1], axis=-1) - (completions == choices[-1])
    return {
        "prompts": [list(prompt) for prompt in prompts],
        "completions": completions.tolist(),
        "mask": (ended == 0).astype(int).tolist(),
        "advantages": rng.normal(size=shape[:2]).tolist(),
        "log_prob_offsets": rng.uniform(-LARGEST_OFFSET, LARGEST_OFFSET, shape).tolist(),
    }
