"""What stands in for the models and collections that the pages name: a few seconds' worth of each."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from tokenizers import AddedToken, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from prorank_jax.beir_folder import read_beir_folder
from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.demo_collection import demo_collection
from prorank_jax.evaluation.output import METRICS_FILE
from prorank_jax.models.export import save_params
from prorank_jax.prompt_template import TASK
from prorank_jax.training_pairs import write_training_pairs
from prorank_jax.trec import write_run
from tests.cpu.data_fixtures import WORDS as NAMES
from tests.cpu.data_fixtures import ask_otherwise, write_beir_folder, write_jsonl
from tests.cpu.tiny import tiny_model
from tests.cpu.tiny_run import TOKENIZER, command_line, load_launcher

QUERIES = 12
TRIPLES = 80
WORDS = 1500
POSITIONS = 1024
# What a run is made short with; the last value of an option counts.
SHORT_RUN = {
    "train.steps": 1,
    "train.batch_size": 4,
    "train.sample_every": 0,
    "optimizer.warmup_steps": 0,
    "grpo.group_size": 4,
    "checkpoint.every": 1,
    "probe.every": 1,
    "probe.examples": 8,
    "probe.batch_size": 4,
}
# Prompts as wide as those of configs/scifact_stage1.yaml, whose program is then compiled already.
RECIPE = {"model": {"remat": "dots_no_batch"}, "stage1": {"data": {"buckets": [224]}}}


@dataclass(frozen=True)
class SmallThings:
    """Where each thing is.

    Attributes:
        model: a Hugging Face folder.
        run: a finished run of stage 2 that started from it.
        collection: a folder in BEIR's layout with all splits.
        triples: training groups in FlagEmbedding's format.
        ranking: a TREC run of the collection.
        recipe: a config of a short run.
        scored: the pairs that the collection is trained on, each with a score.
    """

    model: Path
    run: Path
    collection: Path
    triples: Path
    ranking: Path
    recipe: Path
    scored: Path


def write_small_things(folder: Path) -> SmallThings:
    """Makes all of them; the run is trained."""
    things = SmallThings(
        write_model(folder / "model"),
        folder / "run",
        write_collection(folder / "collection"),
        write_triples(folder / "triples.jsonl"),
        folder / "ranking.trec",
        folder / "recipe.yaml",
        folder / "scored.jsonl",
    )
    write_scored_pairs(things)
    collection = read_beir_folder(things.collection, "dev")
    write_run(things.ranking, {query: list(grades) for query, grades in collection.qrels.items()}, "small")
    things.recipe.write_text(yaml.safe_dump(RECIPE | {"data": {"source": str(things.collection)}}))
    fields = {
        "stage": 2,
        "model.source": things.model,
        "data.source": things.collection,
        "output_dir": things.run,
    }
    assert load_launcher().main(command_line(fields | SHORT_RUN)) == 0
    return things


@functools.cache
def measured(things: SmallThings) -> Path:
    """The metrics of an evaluation of the run, made when it is first asked for."""
    folder = things.run.parent / "evaluation"
    given = {"model": things.run, "dataset": f"{things.collection}:test", "output_dir": folder}
    words = [f"--{name}={value}" for name, value in given.items()]
    assert load_launcher("evaluate").main(words) == 0
    return folder / METRICS_FILE


def write_model(folder: Path) -> Path:
    """Random weights, and a tokenizer that knows the task: its prompts are as short as a real model's."""
    folder.mkdir(parents=True)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    size = _teach_words(folder / "tokenizer.json")
    model, params = tiny_model(scale=1.0, vocab_size=size, max_positions=POSITIONS)
    save_params(params, model.config, folder)
    return folder


def _teach_words(file: Path) -> int:
    """Trains the merges of a tokenizer's file anew; returns the size of its vocabulary."""
    before = Tokenizer.from_file(str(file))
    after = Tokenizer(models.BPE())
    after.normalizer, after.pre_tokenizer = before.normalizer, before.pre_tokenizer
    after.decoder = before.decoder
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    collection = demo_collection("train")
    texts = [*collection.queries.values(), *(text.full_text for text in collection.documents.values())]
    after.train_from_iterator([*[TASK] * len(texts), *texts], trainer)
    for _, token in sorted(before.get_added_tokens_decoder().items()):
        add = after.add_special_tokens if token.special else after.add_tokens
        add([AddedToken(token.content, normalized=False)])
    after.save(str(file))
    return after.get_vocab_size()


def write_collection(folder: Path) -> Path:
    """A folder in BEIR's layout whose splits ask the same in other words."""
    write_beir_folder(folder, QUERIES)
    for split, word in (("dev", "who"), ("test", "where")):
        ask_otherwise(folder, split, word)
    return folder


def write_scored_pairs(things: SmallThings) -> None:
    """What a teacher makes of the pairs of a run on the collection."""
    pairs = things.scored.with_name("pairs.jsonl")
    write_training_pairs(RunConfig(stage=2, data=DataOptions(source=str(things.collection))), pairs)
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    write_jsonl(things.scored, [line | {"score": float(len(line["passage"]))} for line in lines])


def write_triples(file: Path) -> Path:
    """Enough queries that both of its splits have some."""
    names = [f"{NAMES[i % len(NAMES)]} number {i}" for i in range(TRIPLES)]
    return write_jsonl(
        file,
        [
            {
                "query": f"what is {name}?",
                "pos": [f"about {name}"],
                "neg": [f"about {other}" for other in names[:3] if other != name],
            }
            for name in names
        ],
    )
