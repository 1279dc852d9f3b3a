"""What every benchmark is asked: the options that its tasks share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from prorank_jax.benchmarks.environments import has_cuda
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES
from prorank_jax.config_checks import (
    require,
    require_at_least,
    require_choice,
    require_new_file,
    require_positive,
)
from prorank_jax.machine import may_use_accelerator, may_use_nvidia, usable_cores
from prorank_jax.models.sources import SMOLLM2_SOURCE

DEFAULT_ROUNDS, DEFAULT_WARMUP = 5, 1
DEFAULT_TIMEOUT = 3600.0


ATTENTION_HELP = (
    f"of our side: {', '.join(ATTENTION_IMPLEMENTATIONS)} (cudnn with an NVIDIA GPU in bfloat16, else xla)"
)


@dataclass(frozen=True)
class BenchmarkOptions:
    """A benchmark that can be begun; checked when built.

    Attributes:
        peer: the other side.
        model: whose weights both sides load.
        dataset: where the texts come from, as `names.parse_dataset` takes it.
        max_length: of a prompt in tokens.
        system: the system sentence; empty: the model's own.
        dtype: of the computation on both sides.
        rounds, warmup: of each side; warm-up rounds are not kept.
        seed: of the texts chosen and the tokens drawn.
        timeout: seconds a side has for one answer.
        threads: of each side.
        output: file for the result as JSON; None: none is written.
        quick: a small random model of the same architecture and one round: shows that all works, no speed.
    """

    peer: str
    model: str = SMOLLM2_SOURCE
    dataset: str = "demo:train"
    max_length: int = 128
    system: str = ""
    dtype: str = "float32"
    rounds: int = DEFAULT_ROUNDS
    warmup: int = DEFAULT_WARMUP
    seed: int = 0
    timeout: float = DEFAULT_TIMEOUT
    threads: int = 1
    output: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        require(bool(self.model.strip()), "model", self.model, "name a model")
        require_at_least("max_length", self.max_length, 16)
        require_choice("dtype", self.dtype, COMPUTE_DTYPES)
        require_at_least("rounds", self.rounds, 1)
        require_at_least("warmup", self.warmup, 0)
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295 (32 bits)")
        require_positive("timeout", self.timeout)
        require_at_least("threads", self.threads, 1)
        if self.output is not None:
            require_new_file("output", self.output)


def add_options(parser: argparse.ArgumentParser, peers: tuple[str, ...]) -> None:
    """Adds the options that all tasks share."""
    add = parser.add_argument
    add("--peer", default=peers[0], help=f"the other side: {' or '.join(peers)} (%(default)s)")
    add("--model", default=SMOLLM2_SOURCE, help="weights of both sides (%(default)s)")
    add("--dataset", help="real text: demo:SPLIT or FOLDER:SPLIT in BEIR's layout (of the demo)")
    add("--max_length", type=int, default=128, help="longest prompt in tokens (%(default)s)")
    add("--system", default="", help="system sentence (the model's own)")
    add("--dtype", help="float32 or bfloat16 (float32 on a CPU, else bfloat16)")
    add("--rounds", type=int, help=f"measured rounds of each side ({DEFAULT_ROUNDS})")
    add("--warmup", type=int, help=f"rounds before those ({DEFAULT_WARMUP})")
    add("--seed", type=int, default=0, help="of texts and draws (%(default)s)")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds for one answer (%(default)s)")
    add("--output", type=Path, help="file for the result as JSON")
    add("--quick", action="store_true", help="a tiny random model and one round: shows that all works")


def _dtype_of(given: argparse.Namespace) -> str:
    return given.dtype or ("bfloat16" if may_use_accelerator() else "float32")


def uses_nvidia() -> bool:
    """Whether both sides will compute on an NVIDIA GPU."""
    return has_cuda() and may_use_nvidia()


def attention_of(given: argparse.Namespace) -> str:
    """What a parsed command line asks of our side; on NVIDIA GPUs cuDNN's attention, where it can."""
    can_use_cudnn = uses_nvidia() and _dtype_of(given) == "bfloat16"
    return given.attention or ("cudnn" if can_use_cudnn else "xla")


def options_from(given: argparse.Namespace, peers: tuple[str, ...], dataset: str) -> BenchmarkOptions:
    """The shared options that a parsed command line gives.

    Args:
        peers: of the task.
        dataset: its default.

    Raises:
        ValueError: a peer of another task, or a value that cannot work.
    """
    require_choice("peer", given.peer, peers)
    rounds = 1 if given.quick else DEFAULT_ROUNDS
    return BenchmarkOptions(
        peer=given.peer,
        model=given.model,
        dataset=given.dataset or dataset,
        max_length=given.max_length,
        system=given.system,
        dtype=_dtype_of(given),
        rounds=rounds if given.rounds is None else given.rounds,
        warmup=DEFAULT_WARMUP if given.warmup is None else given.warmup,
        seed=given.seed,
        timeout=given.timeout,
        threads=usable_cores(),
        output=given.output,
        quick=given.quick,
    )
