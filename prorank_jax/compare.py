"""Several models on one dataset: the same candidates, one table, one picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from prorank_jax.command_line import CommandParser
from prorank_jax.evaluate import evaluate
from prorank_jax.evaluated_model import as_named_before, identity_as_before
from prorank_jax.evaluation.comparison import (
    check_baseline,
    comparison_table,
    draw_comparison,
    standing_json,
    standings,
)
from prorank_jax.evaluation.fusion_options import NO_FUSION
from prorank_jax.evaluation.metrics import MAIN_METRIC, METRICS, QueryMetrics, require_ranx
from prorank_jax.evaluation.names import parse_datasets, slug
from prorank_jax.evaluation.options import EvaluationOptions, add_options, options_from
from prorank_jax.evaluation.output import METRICS_FILE, QUERIES_FILE, check_known
from prorank_jax.evaluation.score_log import SCORES_FILE, check_begun
from prorank_jax.evaluation_task import prepare, tuning_datasets
from prorank_jax.messages import say
from prorank_jax.model_prompt import open_with_prompts
from prorank_jax.run_folder import write_json

COMPARISON_FILE, PICTURE_FILE = "comparison.json", "comparison.png"
DEFAULT_FOLDER = Path("runs") / "comparison"
_DESCRIPTION = "Evaluates several models on one dataset and puts them side by side."


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared; checked when built.

    Attributes:
        models: name in the table → model, as `launch/evaluate.py` takes it; in the order of the table.
        evaluation: how each is evaluated; its `model` and `output_dir` are not read.
        output_dir: folder of the comparison, with a folder for each evaluation.
        baseline: the system that the others are tested against as well; None: the first stage alone.
    """

    models: Mapping[str, str]
    evaluation: EvaluationOptions
    output_dir: Path
    baseline: str | None = None

    def __post_init__(self) -> None:
        folders = [slug(name) for name in self.models]
        if _first_stage_name(self) in self.models:
            raise ValueError(
                f"models: {_first_stage_name(self)!r} is what the first stage is called; rename that model"
            )
        taken = [_fused_name(name) for name in self.models if _fused_name(name) in self.models]
        if taken and self.evaluation.fusion.method != NO_FUSION:
            raise ValueError(f"models: {taken[0]!r} is what a fusion is called; rename that model")
        clashing = sorted({folder for folder in folders if folders.count(folder) > 1})
        if clashing:
            raise ValueError(f"models: two names give the folder {clashing[0]!r}; rename one of them")
        own = [folder for folder in folders if folder in (COMPARISON_FILE, PICTURE_FILE)]
        if own:
            raise ValueError(f"models: {own[0]!r} is a file of the comparison itself; rename that model")
        if self.evaluation.compare:
            raise ValueError(
                f"compare={list(self.evaluation.compare)}: this puts models side by side; test them against "
                "one of them with --baseline, or one against a run with launch/evaluate.py --compare"
            )
        if len(self.evaluation.datasets) != 1:
            raise ValueError(f"dataset={list(self.evaluation.datasets)}: name one dataset to compare on")
        check_baseline(self.baseline, list(_parts(self)))


def _parts(options: ComparisonOptions) -> dict[str, tuple[str, str]]:
    """System, in the table's order → a model, and which part of its evaluation's records the system is."""
    first = next(iter(options.models))
    parts = {_first_stage_name(options): (first, "first_stage")}
    for name in options.models:
        parts[name] = (name, "reranked")
        if options.evaluation.fusion.method != NO_FUSION:
            parts[_fused_name(name)] = (name, "fused")
    return parts


def _fused_name(name: str) -> str:
    return f"{name}, fused"


def _systems(options: ComparisonOptions) -> dict[str, QueryMetrics]:
    """System → its metrics, of the first stage and of each model, from the files of the evaluations."""
    dataset = parse_datasets(options.evaluation.datasets)[0]
    records = {}
    for name in options.models:
        file = options.output_dir / slug(name) / dataset.slug / QUERIES_FILE
        records[name] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        system: {
            metric: {record["query"]: record[part][metric] for record in records[name]} for metric in METRICS
        }
        for system, (name, part) in _parts(options).items()
    }


def _first_stage_name(options: ComparisonOptions) -> str:
    name = options.evaluation.first_stages[0]
    return "BM25" if name == "bm25" else Path(name).name


def _check_models(options: ComparisonOptions) -> None:
    """Refuses a model that is not there or does not fit the options: the ones before it take hours."""
    given = options.evaluation
    for name, source in options.models.items():
        folder = options.output_dir / slug(name)
        try:
            its = as_named_before(dataclasses.replace(given, model=source, output_dir=folder))
            check_known(folder, {**identity_as_before(its), **its.settings})
            open_with_prompts(
                source,
                max_length=given.max_length,
                instruction=given.instruction,
                system=given.system,
                excerpts=given.excerpts,
                attention=given.attention,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_folder(options: ComparisonOptions) -> None:
    """Refuses a folder with the comparison of another dataset or depth, which would be overwritten."""
    file = options.output_dir / COMPARISON_FILE
    asked = (options.evaluation.datasets[0], options.evaluation.top_k)
    before = _subject_of(file, asked) if file.is_file() else asked
    if before != asked:
        there, here = (f"{dataset!r} (top_k {top_k})" for dataset, top_k in (before, asked))
        raise ValueError(
            f"output_dir={str(options.output_dir)!r}: holds the comparison on {there}; name another for the "
            f"one on {here}"
        )


def _subject_of(comparison: Path, asked: tuple[str, int]) -> tuple[str, int]:
    """Its dataset and depth; earlier versions did not write the second."""
    try:
        content = json.loads(comparison.read_text(encoding="utf-8"))
        return content["dataset"], content.get("top_k", asked[1])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{comparison}: is damaged; remove it, the evaluations beside it are kept"
        ) from error


def compare_models(options: ComparisonOptions, console: Console | None = None) -> dict[str, Any]:
    """Evaluates every model, resuming what is there; returns the content of comparison.json.

    Raises:
        ValueError: as `evaluate`; a model that cannot be evaluated is refused before any other is.
    """
    console = console or Console()
    _check_folder(options)
    _check_models(options)
    require_ranx()
    datasets = parse_datasets(options.evaluation.datasets)
    prepared = prepare(datasets, tuning_datasets(options.evaluation, datasets), 0, options.evaluation)
    task = prepared[0]
    for name in options.models:
        check_begun(options.output_dir / slug(name) / task.dataset.slug / SCORES_FILE, task.header({}))
    for name, source in options.models.items():
        console.print(Text.assemble((name, "bold"), f": {source}"), highlight=False)
        folder = options.output_dir / slug(name)
        its = dataclasses.replace(options.evaluation, model=source, output_dir=folder)
        evaluate(its, console, prepared=prepared)
    systems = _systems(options)
    ordered = standings(systems, options.baseline)
    dataset = options.evaluation.datasets[0]
    count = len(next(iter(systems.values()))[MAIN_METRIC])
    title = f"{dataset}: {count} queries, best {options.evaluation.top_k} of {next(iter(systems))} reranked"
    content = {
        "dataset": dataset,
        "queries": count,
        "top_k": options.evaluation.top_k,
        "metric": MAIN_METRIC,
        "baseline": options.baseline,
        "systems": [standing_json(standing) for standing in ordered],
    }
    write_json(options.output_dir / COMPARISON_FILE, content)
    draw_comparison(options.output_dir / PICTURE_FILE, title, ordered, options.baseline)
    console.print(comparison_table(title, ordered, options.baseline))
    if len(ordered) > 2:
        say(console, "no p-value is corrected for the number of tests")
    say(
        console,
        f"picture: {options.output_dir / PICTURE_FILE}, each evaluation: {METRICS_FILE} in its folder",
    )
    return content


def _named_models(values: Sequence[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for value in values:
        name, equals, source = value.partition("=")
        if not equals or not name.strip() or not source.strip():
            raise ValueError(f"model {value!r}: write NAME=MODEL, e.g. 'stage 1=runs/stage1'")
        if name in models:
            raise ValueError(f"model {value!r}: the name {name!r} is given twice; rename one")
        models[name] = source
    return models


def parse_options(arguments: Sequence[str]) -> ComparisonOptions:
    """The options that a command line gives.

    Raises:
        ValueError: an unknown or missing option, or a value that cannot work.
        SystemExit: after `--help`.
    """
    parser = CommandParser(prog="python launch/compare.py", description=_DESCRIPTION)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="a name for the table, and a model")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="row that the other rows are tested against (the first stage)",
    )
    add_options(parser, default_folder=str(DEFAULT_FOLDER), tests=False)
    given = parser.parse_args(arguments)
    models = _named_models(given.models)
    evaluation = options_from(given, next(iter(models.values())))
    return ComparisonOptions(models, evaluation, given.output_dir or DEFAULT_FOLDER, given.baseline)
