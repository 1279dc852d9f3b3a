"""The examples of a run: those it trains on, and those that are held out for its probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import jax
from rich.console import Console

from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.corpora import check_teacher, judged_queries, load_groups, queries_to_train_on
from prorank_jax.data import ExampleSet, open_dataset
from prorank_jax.embedding_jsonl import EVERYTHING, queries_outside
from prorank_jax.example_notices import example_notices
from prorank_jax.irds import check_ir_dataset
from prorank_jax.local_sources import local_source
from prorank_jax.messages import say
from prorank_jax.negatives_run import check_negatives_run
from prorank_jax.pair_scores import PairScores, refuse_other_texts
from prorank_jax.processes import check_equal, leads, succeed_together
from prorank_jax.prompts import PromptRenderer
from prorank_jax.query_choice import ALL_QUERIES, QueryChoice
from prorank_jax.query_texts import plain, plain_texts
from prorank_jax.ranking_objective import check_scores
from prorank_jax.source_names import (
    CATALOGUE_PREFIX,
    PROBE_SPLIT,
    TRAINED_ON,
    SourceFields,
    names_embedding_file,
)
from prorank_jax.teacher_scores import refuse_other_queries
from prorank_jax.types import RankingGroup

# Negatives are mined for at most so many held-out queries, or one for each prompt of the probe.
PROBED_QUERIES = 500


def open_examples(
    config: RunConfig, renderer: PromptRenderer, console: Console, folder: Path, is_leaders: bool
) -> tuple[ExampleSet, ExampleSet]:
    """Those to train on and those held out, equal in every process; built once for those that share a folder.

    Args:
        folder: the cache of this process.
        is_leaders: whether it is that of process 0 too.

    Raises:
        ValueError: a source or split that cannot work, or a probe that would see training queries.
    """
    data = config.data
    held_out = _named(data.probe_source or data.source, data.probe_split)
    say(console, f"data: {_named(data.source, data.split)}, held out: {held_out}")
    waits = is_leaders and not leads()
    with succeed_together():
        opened = None if waits else _open_here(config, renderer, folder, console)
    with succeed_together():
        opened = opened or _open_here(config, renderer, folder, console)
    for notice in example_notices(config, opened[0]):
        say(console, f"data: {notice}")
    if jax.process_count() == 1:
        return opened
    facts = {name: part.digest for name, part in zip(("data", "held-out data"), opened, strict=True)}
    remedy = "give all the same collection, model and library versions"
    check_equal("examples", facts | {"prompts": renderer.fingerprint}, remedy)
    return opened


def _open_here(
    config: RunConfig, renderer: PromptRenderer, folder: Path, console: Console
) -> tuple[ExampleSet, ExampleSet]:
    """The examples to train on, and those held out for the probe."""
    data, seed = config.data, config.train.seed
    lists, probe_source, fields = config.stage == 2, _probe_source(data), _probe_fields(data)
    judged_only = dataclasses.replace(
        data, teacher_scores="", teacher_depth=0, pseudo_queries=0, negatives_run=""
    )
    given, probed = _named_queries(data)
    unwanted = plain_texts(probed)
    _say_left_out(given, unwanted, console)
    _say_unused(data, console)
    choice = _trained_on(data, given, unwanted)
    examples = open_dataset(data.source, data.split, data, renderer, folder, seed, lists, choice=choice)
    most = max(PROBED_QUERIES, config.probe.examples)
    held_out = open_dataset(
        probe_source,
        data.probe_split,
        judged_only,
        renderer,
        folder,
        seed,
        fields=fields,
        choice=QueryChoice(most=most) if len(probed) > most else ALL_QUERIES,
    )
    return examples, held_out


def training_groups(config: RunConfig) -> list[RankingGroup]:
    """The queries that `open_examples` makes its training examples of; no teacher's scores are read.

    Raises:
        ValueError: as `open_examples`, for what is trained on.
    """
    # A teacher that has yet to score these is no reason to refuse a config that names its file.
    data = dataclasses.replace(config.data, teacher_scores="", teacher_depth=0)
    given, probed = _named_queries(data)
    choice = _trained_on(data, given, plain_texts(probed))
    return load_groups(data.source, data.split, data, config.train.seed, choice=choice)


def _trained_on(data: DataOptions, given: Sequence[str], unwanted: frozenset[str]) -> QueryChoice:
    """Which queries to train on. What changes nothing is left out, so that it does not name the examples."""
    # Any held-out query can be made from documents; without that, only those that are given, too, count.
    held_out = unwanted if data.pseudo_queries else unwanted.intersection(given)
    return QueryChoice(held_out, data.max_queries if 0 < data.max_queries < len(given) else None)


def check_sources(config: RunConfig) -> None:
    """Refuses what `open_examples` would refuse for its names, queries, judgements, teacher's scores or run.

    It looks at no documents of a collection, whose flaws are left to `open_examples`, and asks for no device.
    A run that lacks queries of ir_datasets, whose judgements may name absent documents, is left to it too;
    so are scores of pairs of texts where queries are made from documents.

    Raises:
        ValueError: a source, split, file of scores or run that cannot work, a probe that would see training
            queries, or losses of stage 2 that the data cannot feed.
    """
    data = config.data
    given, probed = _named_queries(data)
    teacher = check_teacher(data.source, data)
    choice = _trained_on(data, given, plain_texts(probed))
    if isinstance(teacher, PairScores) and not data.pseudo_queries:
        refuse_other_texts(teacher, _texts_to_train_on(config, choice))
    if isinstance(teacher, Mapping) or data.negatives_run:
        queries = queries_to_train_on(data.source, data.split, data, config.train.seed, choice)
        check_negatives_run(data, queries, are_all_used=not data.source.startswith(CATALOGUE_PREFIX))
        if isinstance(teacher, Mapping):
            refuse_other_queries(teacher, queries)
    if config.stage == 2:
        check_scores(config)


def _texts_to_train_on(config: RunConfig, choice: QueryChoice) -> list[str]:
    """The plain texts of the queries to train on, or more: which ones of a file are drawn, its lines tell."""
    data = config.data
    texts = {query: plain(text) for query, text in judged_queries(data.source, data.split, data).items()}
    if names_embedding_file(data.source):
        return [text for text in texts.values() if text not in choice.held_out]
    queries = queries_to_train_on(data.source, data.split, data, config.train.seed, choice)
    return [texts[query] for query in texts if query in queries]


def _named_queries(data: DataOptions) -> tuple[list[str], list[str]]:
    """The plain texts of the queries to train on, and those held out as they are written."""
    probe_source = _probe_source(data)
    given = [plain(text) for text in judged_queries(data.source, data.split, data).values()]
    return given, list(judged_queries(probe_source, data.probe_split, data, _probe_fields(data)).values())


def _probe_fields(data: DataOptions) -> SourceFields:
    """The fields that name what the probe's prompts come from."""
    return SourceFields("data.probe_source" if data.probe_source else TRAINED_ON.source, PROBE_SPLIT)


def _say_left_out(given: Sequence[str], held_out: Set[str], console: Console) -> None:
    left_out = sum(text in held_out for text in given)
    if left_out:
        say(
            console,
            f"data: {left_out} of {len(given)} training queries are held-out ones too; they are left out",
        )


def _say_unused(data: DataOptions, console: Console) -> None:
    """Says what the split of a .jsonl leaves out, where the probe is not made of just that."""
    source, probe_source = data.source, _probe_source(data)
    if source == probe_source:
        return
    read = (
        ("trained on", source, data.split, TRAINED_ON),
        ("probed", probe_source, data.probe_split, _probe_fields(data)),
    )
    for use, name, split, fields in read:
        file = Path(local_source(name, fields.source))
        if split == EVERYTHING or not (names_embedding_file(name) and file.is_file()):
            continue
        left_out, queries = queries_outside(file, split, data)
        if left_out:
            say(
                console,
                f"data: {left_out} of {queries} queries of {name} are outside its split {split!r} and not "
                f"{use}; {fields.split} {EVERYTHING} takes them too",
            )


def _named(source: str, split: str) -> str:
    return source if source.startswith(CATALOGUE_PREFIX) else f"{source} ({split})"


def _probe_source(data: DataOptions) -> str:
    """Where the probe's prompts come from; never what is trained on."""
    if data.probe_source not in ("", data.source):
        return data.probe_source
    if data.source.startswith(CATALOGUE_PREFIX):
        check_ir_dataset(data.source.removeprefix(CATALOGUE_PREFIX))
        raise ValueError(
            f"data.probe_source={data.probe_source!r}: {data.source!r} names its own split, so the probe "
            "would see the training queries; name a held-out source, e.g. ir_datasets:beir/nfcorpus/dev"
        )
    if data.probe_split == data.split or EVERYTHING in (data.split, data.probe_split):
        raise ValueError(
            f"data.probe_split={data.probe_split!r}: with data.split={data.split!r} the probe would see the "
            "training queries; move the judgements of some queries to another file in qrels/, or name a "
            "held-out collection as data.probe_source"
        )
    return data.source
