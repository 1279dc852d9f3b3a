"""Evaluates a model on datasets: first stage, reranking, metrics, significance, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from prorank_jax import __version__
from prorank_jax.beir_folder import beir_files
from prorank_jax.corpora import Collection, load_collection, source_fingerprint
from prorank_jax.evaluation.first_stage import FirstStage, counted_queries, make_first_stage, sample_queries
from prorank_jax.evaluation.harness import Evaluation, evaluate_collection, summarize
from prorank_jax.evaluation.metrics import require_ranx
from prorank_jax.evaluation.names import DatasetName, parse_datasets
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation.output import (
    METRICS_FILE,
    REPORT_FILE,
    claim_folder,
    earlier_datasets,
    metrics_content,
    write_dataset,
)
from prorank_jax.evaluation.page import dataset_section, render_page
from prorank_jax.evaluation.progress import ScoringProgress
from prorank_jax.evaluation.score_log import SCORES_FILE, ScoreLog
from prorank_jax.evaluation.scoring import CHUNK_PAIRS
from prorank_jax.evaluation.tables import results_table
from prorank_jax.evaluation.trec import read_run_of
from prorank_jax.model_identity import model_identity
from prorank_jax.reranker import Reranker
from prorank_jax.run_folder import only_run_in, write_json, write_text_atomically
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO

LIBRARIES = ("jax", "ranx", "bm25s")
BATCHES_PER_CHUNK = 8  # keeps the device fed between two writes to disk


@dataclass(frozen=True)
class _Task:
    """One dataset, ready to be scored: texts, first stage, and another system if one was named."""

    dataset: DatasetName
    collection: Collection
    counted: int
    first_stage: FirstStage
    compared: tuple[str, Mapping[str, list[str]]] | None


def _check_split(dataset: DatasetName) -> None:
    """Refuses a BEIR folder without the split at once, not when its turn comes."""
    if dataset.source != DEMO and not dataset.source.startswith(CATALOGUE_PREFIX):
        with _named(dataset):
            beir_files(Path(dataset.source), dataset.split)


@contextmanager
def _named(dataset: DatasetName) -> Iterator[None]:
    """Puts the dataset's name in front of an error about it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"dataset={dataset.name!r}: {error}") from error


def _prepare(dataset: DatasetName, position: int, options: EvaluationOptions) -> _Task:
    with _named(dataset):
        collection = load_collection(dataset.source, dataset.split)
        counted = counted_queries(collection)
        queries = sample_queries(counted, options.queries)
        compared = None
        if options.compare:
            file = options.compare[position]
            compared = (file, read_run_of(Path(file).expanduser(), collection))
        first_stage = make_first_stage(options.first_stage_of(position), collection, queries, options.top_k)
    return _Task(dataset, collection, len(counted), first_stage, compared)


def _header(task: _Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the raw scores of a dataset."""
    return {
        **settings,
        "dataset": task.dataset.name,
        "dataset_fingerprint": source_fingerprint(task.dataset.source, task.dataset.split),
        "first_stage": task.first_stage.name,
        "first_stage_fingerprint": task.first_stage.fingerprint(),
        "queries": len(task.first_stage.rankings),
    }


def _score(
    task: _Task, reranker: Reranker, options: EvaluationOptions, settings: Mapping[str, Any], console: Console
) -> Evaluation:
    folder = options.folder / task.dataset.slug
    folder.mkdir(exist_ok=True)
    log = ScoreLog(folder / SCORES_FILE, _header(task, settings))
    total = sum(map(len, task.first_stage.candidates(options.top_k).values()))
    with ScoringProgress(console, task.dataset.name, total) as progress:
        evaluation = evaluate_collection(
            reranker.score_pairs,
            task.collection,
            task.first_stage,
            top_k=options.top_k,
            compared=task.compared,
            log=log,
            chunk_pairs=max(CHUNK_PAIRS, BATCHES_PER_CHUNK * options.batch_size),
            on_scored=progress.advance,
            on_resumed=progress.resume,
        )
    write_dataset(folder, evaluation)
    return evaluation


def _entry(task: _Task, evaluation: Evaluation) -> dict[str, Any]:
    queries = len(task.first_stage.rankings)
    return {
        **summarize(evaluation),
        "first_stage_name": task.first_stage.name,
        "queries_without_candidates": task.first_stage.empty,
        "own_documents_dropped": task.first_stage.own_documents,
        "sampled_from": task.counted if queries < task.counted else None,
    }


def _open_reranker(options: EvaluationOptions, identity: Mapping[str, Any]) -> Reranker:
    reranker = Reranker.from_pretrained(
        options.model,
        max_length=options.max_length,
        instruction=options.instruction,
        system=options.system,
        batch_size=options.batch_size,
        compute_dtype=options.compute_dtype,
        attention=options.attention,
        share_prefixes=True,
    )
    if model_identity(options.model) != identity:
        raise ValueError(f"model={options.model!r}: was written to while it was loaded; run this again")
    return reranker


def _tell(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)


def evaluate(options: EvaluationOptions, console: Console | None = None) -> dict[str, Any]:
    """Evaluates a model on all datasets, resuming what an earlier call left; returns metrics.json's content.

    Writes into the output folder, for each dataset in a folder of its own: scores.jsonl, both run files and
    the metrics of each query; beside those folders metrics.json and report.html.

    Raises:
        ValueError: bad input, or a folder of another evaluation; nothing is overwritten.
    """
    console = console or Console()
    tell = _tell(console)
    require_ranx()
    datasets = parse_datasets(options.datasets)
    for dataset in datasets:
        _check_split(dataset)
    identity = model_identity(options.model)
    with only_run_in(options.folder):
        task = _prepare(datasets[0], 0, options)
        reranker = _open_reranker(options, identity)
        settings = {
            **identity,
            "top_k": options.top_k,
            "max_length": reranker.max_length,
            "system": options.system,
            "instruction": options.instruction,
            "compute_dtype": options.compute_dtype,
            "attention": options.attention,
        }
        claim_folder(options.folder, settings)
        entries = earlier_datasets(options.folder)
        versions = {"prorank-jax": __version__, **{name: version(name) for name in LIBRARIES}}
        sections = []
        for position, dataset in enumerate(datasets):
            if position:
                task = _prepare(dataset, position, options)
            _tell_about(task, tell)
            evaluation = _score(task, reranker, options, settings, console)
            entries[dataset.name] = _entry(task, evaluation)
            sections.append(dataset_section(dataset.name, evaluation, task.collection))
            # After each dataset, so that a stop between two keeps what there is.
            content = metrics_content(settings, versions, entries)
            write_json(options.folder / METRICS_FILE, content)
            write_text_atomically(options.folder / REPORT_FILE, render_page(content, sections))
    console.print(results_table(content))
    tell(f"results in {options.folder}: {METRICS_FILE}, {REPORT_FILE}, and a folder for each dataset")
    return content


def _tell_about(task: _Task, tell: Callable[[str], None]) -> None:
    queries = len(task.first_stage.rankings)
    sample = f", a random sample of {task.counted}" if queries < task.counted else ""
    tell(
        f"{task.dataset.name}: {queries} queries{sample}, {len(task.collection.documents)} documents, "
        f"first stage {task.first_stage.name}"
    )
    if task.first_stage.empty:
        tell(f"{task.dataset.name}: {task.first_stage.empty} queries have no candidates and score 0")
