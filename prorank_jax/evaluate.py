"""Evaluates a model on datasets: first stage, reranking, metrics, significance, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from prorank_jax import __version__
from prorank_jax.device_memory import naming_memory
from prorank_jax.evaluated_model import as_named_before, identity_as_before
from prorank_jax.evaluation.fusion import Fusion
from prorank_jax.evaluation.fusion_tuning import tune_weight
from prorank_jax.evaluation.harness import Evaluation, evaluate_collection
from prorank_jax.evaluation.metrics import require_ranx
from prorank_jax.evaluation.names import check_same_names, parse_datasets
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation.output import (
    METRICS_FILE,
    REPORT_FILE,
    check_known,
    claim_folder,
    earlier_datasets,
    earlier_sections,
    metrics_content,
    write_dataset,
)
from prorank_jax.evaluation.page import dataset_section, render_page
from prorank_jax.evaluation.progress import ScoringProgress
from prorank_jax.evaluation.score_log import SCORES_FILE, ScoreLog, scored_by
from prorank_jax.evaluation.scoring import CHUNK_PAIRS, score_candidates
from prorank_jax.evaluation.summary import summarize
from prorank_jax.evaluation.tables import results_table
from prorank_jax.evaluation.verdict import verdict
from prorank_jax.evaluation_task import Prepared, Task, check_split, prepare, tuning_datasets
from prorank_jax.excerpts import EXCERPT_VERSION
from prorank_jax.messages import say
from prorank_jax.model_identity import check_unchanged
from prorank_jax.rendering import useful_processes
from prorank_jax.reranker import Reranker
from prorank_jax.run_folder import only_run_in, write_json, write_text_atomically
from prorank_jax.score_origin import this_code_and_devices, told_of_others
from prorank_jax.trained_on import Split, training_splits, training_warnings, was_trained_on

LIBRARIES = ("jax", "ranx", "bm25s")
BATCHES_PER_CHUNK = 8  # keeps the device fed between two writes to disk


class _Scoring(NamedTuple):
    """What every scoring of an evaluation needs."""

    reranker: Reranker
    options: EvaluationOptions
    settings: Mapping[str, Any]
    scored_by: str
    console: Console

    @property
    def chunk_pairs(self) -> int:
        return max(CHUNK_PAIRS, BATCHES_PER_CHUNK * self.options.batch_size)

    def progress(self, task: Task, title: str) -> ScoringProgress:
        total = sum(map(len, task.first_stage.candidates(self.options.top_k).values()))
        return ScoringProgress(self.console, title, total)


def _score(task: Task, fusion: Fusion | None, folder: Path, scoring: _Scoring) -> Evaluation:
    log = ScoreLog(folder / SCORES_FILE, task.header(scoring.settings), scoring.scored_by)
    with scoring.progress(task, task.dataset.name) as progress:
        evaluation = evaluate_collection(
            scoring.reranker.score_chunks,
            task.collection,
            task.first_stage,
            top_k=scoring.options.top_k,
            compared=task.compared,
            fusion=fusion,
            log=log,
            chunk_pairs=scoring.chunk_pairs,
            on_scored=progress.advance,
            on_resumed=progress.resume,
        )
    write_dataset(folder, evaluation)
    for line in told_of_others(task.dataset.name, evaluation.scores, scoring.scored_by):
        say(scoring.console, line)
    return evaluation


def _tune(task: Task, folder: Path, scoring: _Scoring, splits: Sequence[Split]) -> Fusion:
    """The weight that is best on the queries of `task`, whose scores are kept like all others."""
    queries = len(task.first_stage.rankings)
    # In the name, so that another choice of queries finds a file of its own.
    file = folder / f"tuning-{task.dataset.slug}-{queries}.jsonl"
    with scoring.progress(task, f"{task.dataset.name} (tuning)") as progress:
        scores = score_candidates(
            scoring.reranker.score_chunks,
            task.collection,
            task.first_stage.candidates(scoring.options.top_k),
            log=ScoreLog(file, task.header(scoring.settings), scoring.scored_by),
            chunk_pairs=scoring.chunk_pairs,
            on_scored=progress.advance,
            on_resumed=progress.resume,
        )
    for line in told_of_others(f"{task.dataset.name} (tuning)", scores, scoring.scored_by):
        say(scoring.console, line)
    fusion = tune_weight(task.dataset.name, task.collection, task.first_stage, scores)
    left_out = f" ({task.overlap} more are measured, and left out)" if task.overlap else ""
    say(
        scoring.console,
        f"fusion: weight {fusion.weight:g} of the reranker, tuned on {queries} queries of "
        f"{task.dataset.name}{left_out}",
    )
    known = {"trained_on": was_trained_on(task.dataset, splits), "scored_by": scored_by(scores)}
    return dataclasses.replace(fusion, tuned_on={**(fusion.tuned_on or {}), **known})


def _entry(task: Task, evaluation: Evaluation, splits: Sequence[Split]) -> dict[str, Any]:
    queries = len(task.first_stage.rankings)
    qrels = task.collection.qrels
    relevant = {
        document
        for query in task.first_stage.rankings
        for document, grade in qrels[query].items()
        if grade > 0
    }
    return {
        **summarize(evaluation),
        "first_stage_name": task.first_stage.name,
        "queries_without_candidates": task.first_stage.empty,
        "own_documents_dropped": task.first_stage.own_documents,
        "absent_documents": sum(not task.collection.holds(document) for document in relevant),
        "sampled_from": task.counted if queries < task.counted else None,
        "trained_on": was_trained_on(task.dataset, splits),
    }


def _open_reranker(options: EvaluationOptions, identity: Mapping[str, Any]) -> Reranker:
    reranker = Reranker.from_pretrained(
        options.model,
        max_length=options.max_length,
        instruction=options.instruction,
        system=options.system,
        excerpts=options.excerpts,
        batch_size=options.batch_size,
        compute_dtype=options.compute_dtype,
        attention=options.attention,
        share_prefixes=True,
    )
    check_unchanged(options.model, identity)
    return reranker


def _render_processes(options: EvaluationOptions) -> int:
    if options.render_processes is not None:
        return options.render_processes
    return useful_processes(is_accelerated=jax.default_backend() != "cpu")


def evaluate(
    options: EvaluationOptions, console: Console | None = None, *, prepared: Prepared | None = None
) -> dict[str, Any]:
    """Evaluates a model on all datasets, resuming what an earlier call left; returns metrics.json's content.

    Writes into the output folder, for each dataset in a folder of its own: scores.jsonl, the run files, the
    metrics of each query, and the scores that a fusion was tuned on; beside those folders metrics.json and
    report.html.

    Args:
        prepared: the first dataset, where the evaluation of another model had the same one; else it is read
            and ranked here.

    Raises:
        ValueError: bad input, or a folder of another evaluation; nothing is overwritten.
        TooLittleMemoryError: a batch finds no room; what helps is named.
    """
    console = console or Console()
    require_ranx()
    datasets = parse_datasets(options.datasets)
    for dataset in datasets:
        check_split(dataset)
    tuning = tuning_datasets(options, datasets)
    options = as_named_before(options)
    identity = identity_as_before(options)
    splits = training_splits(options.model)
    for line in training_warnings(datasets, tuning, splits):
        say(console, line)
    with only_run_in(options.folder):
        check_known(options.folder, {**identity, **options.settings})
        check_same_names(datasets, earlier_datasets(options.folder))
        waiting = [prepared or prepare(datasets, tuning, 0, options)]
        reranker = _open_reranker(options, identity)
        settings = {
            **identity,
            **options.settings,
            "max_length": reranker.max_length,
            "excerpt_version": None if reranker.excerpts == "head" else EXCERPT_VERSION,
        }
        claim_folder(options.folder, settings)
        entries = earlier_datasets(options.folder)
        versions = {"prorank-jax": __version__, **{name: version(name) for name in LIBRARIES}}
        scoring = _Scoring(reranker, options, settings, this_code_and_devices(), console)
        sections = earlier_sections(options.folder)
        with (
            reranker.rendering_in(_render_processes(options)),
            naming_memory(
                f"lower --batch_size ({options.batch_size}) or --max_length ({reranker.max_length})"
            ),
        ):
            for position, dataset in enumerate(datasets):
                if position:
                    waiting.append(prepare(datasets, tuning, position, options))
                entries[dataset.name], sections[dataset.name] = _measure(waiting, scoring, splits)
                # After each dataset, so that a stop between two keeps what there is.
                content = metrics_content(settings, versions, entries)
                write_text_atomically(options.folder / REPORT_FILE, render_page(content, sections))
                write_json(options.folder / METRICS_FILE, content)  # last: it is taken for the whole result
    console.print(results_table(content))
    for dataset in datasets:
        for sentence in verdict(entries[dataset.name], options.top_k):
            say(console, f"{dataset.name}: {sentence}")
    say(console, f"results in {options.folder}: {METRICS_FILE}, {REPORT_FILE}, and a folder for each dataset")
    return content


def _measure(
    waiting: list[Prepared], scoring: _Scoring, splits: Sequence[Split]
) -> tuple[dict[str, Any], str]:
    """The entry of a dataset in metrics.json and its section of the page.

    Args:
        waiting: holds one dataset, which is taken out: its texts must be gone when the next one is loaded.
    """
    task, tuned = waiting.pop()
    options, dataset = scoring.options, task.dataset
    _tell_about(task, scoring.console)
    folder = options.folder / dataset.slug
    folder.mkdir(exist_ok=True)
    fusion = options.fusion.given if tuned is None else _tune(tuned, folder, scoring, splits)
    tuned = None  # lets its texts go, too
    evaluation = _score(task, fusion, folder, scoring)
    section = dataset_section(dataset.name, evaluation, task.collection)
    return _entry(task, evaluation, splits), section


def _tell_about(task: Task, console: Console) -> None:
    queries = len(task.first_stage.rankings)
    sample = f", a random sample of {task.counted}" if queries < task.counted else ""
    say(
        console,
        f"{task.dataset.name}: {queries} queries{sample}, {task.collection.document_count} documents, "
        f"first stage {task.first_stage.name}",
    )
    if task.first_stage.empty:
        say(console, f"{task.dataset.name}: {task.first_stage.empty} queries have no candidates and score 0")
