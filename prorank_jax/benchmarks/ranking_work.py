"""The work of the stage 2 benchmark: lists that our pipeline makes, as ids for us and as texts for a peer."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prorank_jax.benchmarks.options import ATTENTION_HELP, BenchmarkOptions, attention_of
from prorank_jax.benchmarks.peer_model import export_peer_model
from prorank_jax.benchmarks.work import MODEL_FOLDER, shared_settings, write_settings
from prorank_jax.collection import Collection
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, REMAT_POLICIES, RunConfig
from prorank_jax.config_checks import require_at_least, require_choice
from prorank_jax.config_files import config_from_flat, config_to_dict
from prorank_jax.corpora import load_collection
from prorank_jax.data import ExampleSet, open_dataset
from prorank_jax.evaluation.names import PARTS, DatasetName, naming, parse_dataset
from prorank_jax.lists import index_lists, list_iterator
from prorank_jax.run_folder import DATA_FOLDER
from prorank_jax.source_names import DEMO
from prorank_jax.types import ListBatch

OUR_RUN = "run"
LEARNING_RATE = 1e-5
# The softmax of labels log(grade) gives each document grade / sum of grades, the targets of `listwise`; that
# of a document of grade 0 is exactly 0 in float32.
NOT_RELEVANT = -1e4


@dataclass(frozen=True)
class RankingWork:
    """The size of a step of stage 2, and how many make a round; checked when built.

    Attributes:
        lists: of a step.
        list_size: documents of each list.
        steps: of a round; every round has the same ones.
        remat: what our backward pass recomputes, as `model.remat` of a run.
        attention: of our side, as `model.attention` of a run.
    """

    lists: int = 2
    list_size: int = 8
    steps: int = 2
    remat: str = "dots_no_batch"
    attention: str = "xla"

    def __post_init__(self) -> None:
        require_at_least("lists", self.lists, 1)
        require_at_least("list_size", self.list_size, 2)
        require_at_least("steps", self.steps, 1)
        require_choice("remat", self.remat, REMAT_POLICIES)
        require_choice("attention", self.attention, ATTENTION_IMPLEMENTATIONS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this task has, and its own default of what all have."""
    parser.set_defaults(max_length=256)
    add = parser.add_argument
    add("--lists", type=int, help=f"lists of a step ({RankingWork.lists})")
    add("--list_size", type=int, help=f"documents of a list ({RankingWork.list_size})")
    add("--steps", type=int, help=f"steps of a round ({RankingWork.steps})")
    add("--remat", default=RankingWork.remat, help="what our backward pass recomputes (%(default)s)")
    add("--attention", help=ATTENTION_HELP)


def work_from(given: argparse.Namespace) -> RankingWork:
    """The work that a parsed command line asks for.

    Raises:
        ValueError: a value that cannot work.
    """
    default = RankingWork(lists=2, list_size=3, steps=2) if given.quick else RankingWork()
    return RankingWork(
        lists=default.lists if given.lists is None else given.lists,
        list_size=default.list_size if given.list_size is None else given.list_size,
        steps=default.steps if given.steps is None else given.steps,
        remat=given.remat,
        attention=attention_of(given),
    )


def write_ranking_work(options: BenchmarkOptions, size: RankingWork, work: Path) -> dict[str, Any]:
    """Writes the model, our run's examples and `work.json`; returns the settings.

    Raises:
        ValueError: no such model or collection, or too few documents for a list.
    """
    dataset = parse_dataset(options.dataset)
    with naming(dataset):
        collection = load_collection(dataset.source, dataset.split, PARTS)
    model = export_peer_model(options, work)
    config = our_config(options, size, dataset, work, model.prompt.system)
    folder = work / OUR_RUN / DATA_FOLDER
    data = config.data
    with naming(dataset):
        examples = open_dataset(
            data.source,
            data.split,
            data,
            model.renderer,
            folder,
            options.seed,
            every_candidate=True,
            fields=PARTS,
        )
        batches = first_batches(examples, config, size.steps)
    settings = shared_settings(options) | {
        "lists_per_step": size.lists,
        "list_size": size.list_size,
        "steps": size.steps,
        "tokens": sum(real_tokens(batch) for batch in batches),
        "learning_rate": config.optimizer.learning_rate,
        "b1": config.optimizer.b1,
        "b2": config.optimizer.b2,
        "eps": config.optimizer.eps,
        "max_grad_norm": config.optimizer.max_grad_norm,
        "lists": [record for batch in batches for record in list_texts(batch, examples, collection)],
        "ours": {"config": config_to_dict(config), "remat": size.remat},
    }
    write_settings(work, settings)
    return settings


def our_config(
    options: BenchmarkOptions, size: RankingWork, dataset: DatasetName, work: Path, system: str
) -> RunConfig:
    """The run of stage 2 that our side takes its steps from: listwise loss, AdamW at a constant rate.

    There are as many negatives as make every list full.

    Args:
        system: the system sentence of the exported model.
    """
    return config_from_flat(
        {
            "stage": 2,
            "output_dir": str(work / OUR_RUN),
            "model.source": str(work / MODEL_FOLDER),
            "model.compute_dtype": options.dtype,
            "model.remat": size.remat,
            "model.attention": size.attention,
            "data.source": dataset.source,
            "data.split": dataset.split,
            # A run has a probe, though none of its prompts is measured; it may not be what is trained on.
            "data.probe_source": DEMO,
            "data.probe_split": "train" if (dataset.source, dataset.split) == (DEMO, "dev") else "dev",
            "data.max_length": options.max_length,
            "data.system": system,
            "data.negatives_per_query": size.list_size - 1,
            "train.seed": options.seed,
            "train.steps": size.steps,
            "train.batch_size": size.lists,
            "optimizer.learning_rate": LEARNING_RATE,
            "optimizer.schedule": "constant",
            "optimizer.warmup_steps": 0,
            "ranking.losses": "listwise=1",
            "ranking.list_size": size.list_size,
            "probe.examples": 2,
            "probe.batch_size": 2,
        }
    )


def first_batches(examples: ExampleSet, config: RunConfig, steps: int) -> list[ListBatch]:
    """The batches that a run of this config trains on first."""
    batches = list_iterator(
        examples,
        index_lists(examples, config.ranking, config.data.max_length),
        config.ranking,
        lists_per_batch=config.train.batch_size,
        relevant_grade=config.data.relevant_grade,
        seed=config.train.seed,
    )
    return [next(batches) for _ in range(steps)]


def real_tokens(batch: ListBatch) -> int:
    """Tokens of a batch without padding, what the prompts of a list share counted once."""
    return int((batch.lengths * batch.mask).sum() + batch.prefix_lengths.sum())


def list_texts(batch: ListBatch, examples: ExampleSet, collection: Collection) -> list[dict[str, Any]]:
    """A batch's lists as texts: `query`, `documents`, and `labels` for ListNet; see NOT_RELEVANT."""
    return [
        {
            "query": collection.queries[examples[members[0]].query_id],
            "documents": [collection.documents[examples[place].document_id].full_text for place in members],
            "labels": log_grades(grades),
        }
        for members, grades in _members(batch)
    ]


def _members(batch: ListBatch) -> list[tuple[list[int], list[float]]]:
    """Of each list, the positions of its examples and their grades."""
    real = np.asarray(batch.mask)
    places, grades = np.asarray(batch.examples), np.asarray(batch.grades)
    return [(places[row][real[row]].tolist(), grades[row][real[row]].tolist()) for row in range(len(real))]


def log_grades(grades: Sequence[float]) -> list[float]:
    """Labels whose softmax is each grade's share of their sum."""
    return [math.log(grade) if grade > 0 else NOT_RELEVANT for grade in grades]
