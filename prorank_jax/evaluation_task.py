"""The datasets of an evaluation, ready to be scored: to measure on, and to tune a fusion on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prorank_jax.collection import Choice, Named
from prorank_jax.corpora import Collection, load_collection, source_fingerprint
from prorank_jax.demo_collection import demo_collection
from prorank_jax.evaluation.first_stage import (
    BM25,
    FirstStage,
    check_ranks_some,
    counted_queries,
    drop_queries_themselves,
    make_first_stage,
    sample_queries,
)
from prorank_jax.evaluation.fusion_options import DEFAULT_QUERIES
from prorank_jax.evaluation.fusion_tuning import unmeasured_queries
from prorank_jax.evaluation.names import PARTS, DatasetName, naming, parse_dataset
from prorank_jax.evaluation.needed_documents import ids_named, texts_needed
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation.page import SHOWN_DOCUMENTS
from prorank_jax.evaluation_scores import WHOLE
from prorank_jax.irds import check_ir_dataset
from prorank_jax.local_sources import local_beir_files
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO
from prorank_jax.trec import Scores, read_scores, scores_of


@dataclass(frozen=True)
class Task:
    """One dataset, ready to be scored.

    Attributes:
        dataset: its name.
        collection: texts and judgements.
        counted: queries that could be measured.
        first_stage: of those that are.
        fingerprint: of the files that the texts were read from.
        compared: another system, if one was named.
        overlap: queries left out because they are measured; only of a dataset to tune on.
    """

    dataset: DatasetName
    collection: Collection
    counted: int
    first_stage: FirstStage
    fingerprint: Mapping[str, str]
    compared: tuple[str, Mapping[str, list[str]]] | None = None
    overlap: int = 0

    def header(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the raw scores of the dataset."""
        return {
            **settings,
            "dataset": self.dataset.name,
            "dataset_fingerprint": dict(self.fingerprint),
            "first_stage": self.first_stage.name,
            "first_stage_fingerprint": self.first_stage.fingerprint(),
            "queries": len(self.first_stage.rankings),
            WHOLE: len(self.first_stage.rankings) - self.first_stage.empty,
        }


# What is measured, and what its fusion is tuned on.
Prepared = tuple[Task, Task | None]


def check_split(dataset: DatasetName, option: str = "dataset") -> None:
    """Refuses a dataset without the split, or without judgements, at once, not when its turn comes.

    Args:
        option: that named it.

    Raises:
        ValueError: there is no such split.
    """
    with naming(dataset, option):
        if dataset.source == DEMO:
            demo_collection(dataset.split, PARTS.split)
        elif dataset.source.startswith(CATALOGUE_PREFIX):
            check_ir_dataset(dataset.source.removeprefix(CATALOGUE_PREFIX), PARTS.source)
        else:
            local_beir_files(dataset.source, dataset.split, PARTS)


def tuning_datasets(options: EvaluationOptions, measured: Sequence[DatasetName]) -> list[DatasetName | None]:
    """What to tune a fusion on, for each dataset that is measured; None: nothing.

    Raises:
        ValueError: an unknown dataset, or one that is measured itself.
    """
    names = [options.fusion.tune_of(position) for position in range(len(measured))]
    places = {dataset.place for dataset in measured}
    parsed = {name: parse_dataset(name) for name in names if name is not None}
    for name, dataset in parsed.items():
        check_split(dataset, "fusion_tune")
        if dataset.place in places:
            raise ValueError(
                f"fusion_tune={name!r}: is measured too, which would flatter the fusion; name a split that "
                "is not, and that the model was not trained on"
            )
    return [None if name is None else parsed[name] for name in names]


def prepare_task(dataset: DatasetName, position: int, options: EvaluationOptions) -> Task:
    """Loads a dataset to measure and ranks its queries with the first stage.

    Where that is a run, no text is kept but of the documents that are scored or shown: BM25 needs them all.

    Raises:
        ValueError: it cannot be loaded or measured, or a run of it is flawed; names the dataset.
    """
    with naming(dataset):
        name = options.first_stage_of(position)
        run = None if name == BM25 else read_scores(Path(name).expanduser())
        other = read_scores(Path(options.compare[position]).expanduser()) if options.compare else {}
        collection, fingerprint = _load(dataset, None if run is None else _choice(run, other, options))
        counted = counted_queries(collection)
        queries = sample_queries(counted, options.queries)
        compared = None
        if options.compare:
            file = options.compare[position]
            path = Path(file).expanduser()
            known = scores_of(path, other, collection)
            check_ranks_some(path, known, collection, queries)
            compared = (file, drop_queries_themselves(collection, known))
        first_stage = make_first_stage(name, collection, queries, options.top_k, run)
    return Task(dataset, collection, len(counted), first_stage, fingerprint, compared)


def prepare_tuning(dataset: DatasetName, measured: Collection, options: EvaluationOptions) -> Task:
    """Loads a dataset to tune a fusion on, without the queries of the measured collection.

    Raises:
        ValueError: it cannot be loaded, or all of its queries are measured; names the dataset.
    """
    with naming(dataset, "fusion_tune"):
        collection, fingerprint = _load(dataset)
        counted = counted_queries(collection)
        free = unmeasured_queries(collection, counted, (measured.queries[query] for query in measured.qrels))
        if not free:
            raise ValueError(
                f"each of its {len(counted)} queries is asked in {measured.name} too, which is measured; "
                "name a split with queries of its own"
            )
        queries = sample_queries(free, options.fusion.queries or DEFAULT_QUERIES)
        first_stage = make_first_stage(BM25, collection, queries, options.top_k)
    return Task(dataset, collection, len(free), first_stage, fingerprint, overlap=len(counted) - len(free))


def prepare(
    datasets: Sequence[DatasetName],
    tuning: Sequence[DatasetName | None],
    position: int,
    options: EvaluationOptions,
) -> Prepared:
    """The dataset at this position, and what its fusion is tuned on; the model decides nothing of either.

    Raises:
        ValueError: as `prepare_task` and `prepare_tuning`.
    """
    task, other = prepare_task(datasets[position], position, options), tuning[position]
    return task, None if other is None else prepare_tuning(other, task.collection, options)


def _choice(first_stage: Scores, compared: Scores, options: EvaluationOptions) -> Choice:
    """What `load_collection` is to read for these runs; `compared` may be empty."""
    depth = max(options.top_k, SHOWN_DOCUMENTS)

    def choose(judged: Collection) -> Named:
        queries = sample_queries(counted_queries(judged), options.queries) if judged.qrels else []
        return Named(
            texts_needed(first_stage, compared, judged.queries, queries, depth),
            ids_named(first_stage, judged.queries) | ids_named(compared, judged.queries),
        )

    return choose


def _load(dataset: DatasetName, choose: Choice | None = None) -> tuple[Collection, dict[str, str]]:
    """The texts and judgements, and the fingerprint of what they were read from.

    At once: scores of these texts are known by it, and the files may change before the last one is there.
    """
    collection = load_collection(dataset.source, dataset.split, PARTS, measured=True, choose=choose)
    return collection, source_fingerprint(dataset.source, dataset.split, PARTS)
