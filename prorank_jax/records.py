"""Writes tokenized examples once as ArrayRecord through tensorflow-datasets, without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from prorank_jax.long_work import tracked
from prorank_jax.run_folder import UNFINISHED, remove_leftovers
from prorank_jax.storage_faults import naming_place, reach_disk

DATASET_NAME, DATASET_VERSION = "prompt_records", "1.0.0"
RECORD_SPLIT = "examples"
EXAMPLES_PER_FILE = 100_000
INDEX_FILES = ("lengths", "labels", "grades", "scores", "starts", "queries", "documents")
DESCRIPTION_FILE = "content.json"
FILE_FORMAT = "array_record"


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized prompt.

    Attributes:
        tokens: int32 [tokens].
        label: 1 for a relevant document, else 0.
        grade: its judgement.
        score: a teacher's; NaN if there is none.
        document_start: tokens that every prompt of this query starts with.
        document_key: equal for copies of a document under another id; only the index reads it, nothing keeps
            it; empty: the id tells.
    """

    query_id: str
    document_id: str
    tokens: np.ndarray
    label: int
    grade: int
    score: float = math.nan
    document_start: int = 0
    document_key: bytes = b""


def _features() -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "label": tfds.features.Scalar(np.int32),
            "grade": tfds.features.Scalar(np.int32),
            "score": tfds.features.Scalar(np.float32),
            "document_start": tfds.features.Scalar(np.int32),
            "query_id": tfds.features.Text(),
            "document_id": tfds.features.Text(),
        }
    )


def _record(example: Example) -> dict[str, Any]:
    """The values of `_features`."""
    return {
        "tokens": np.asarray(example.tokens, np.int32),
        "label": example.label,
        "grade": example.grade,
        "score": example.score,
        "document_start": example.document_start,
        "query_id": example.query_id,
        "document_id": example.document_id,
    }


class RecordReader:
    """Random access to written examples; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        builder = tfds.builder_from_directory(_builder_folder(folder))
        self._source = builder.as_data_source(split=RECORD_SPLIT)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, position: int) -> Example:
        record = self._source[position]
        return Example(
            query_id=record["query_id"].decode("utf-8"),
            document_id=record["document_id"].decode("utf-8"),
            tokens=np.asarray(record["tokens"], np.int32),
            label=int(record["label"]),
            grade=int(record["grade"]),
            score=float(record["score"]),
            document_start=int(record["document_start"]),
        )


def content_key(deciding: Mapping[str, Any]) -> str:
    """A short name that differs for any difference in what decides the content (JSON values)."""
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:20]


def _builder_folder(folder: Path) -> Path:
    return folder / DATASET_NAME / DATASET_VERSION


def _write(examples: Sequence[Example], folder: Path) -> None:
    """Writes the examples one after the other: a batch is named by positions, so their order is kept.

    A builder of tfds would hold all of them in memory first, and above 1,000 MiB need TensorFlow.
    """
    place = _builder_folder(folder)
    place.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=DATASET_NAME,
        version=tfds.core.Version(DATASET_VERSION),
        data_dir=str(place),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(builder=identity, features=_features(), disable_shuffling=True)
    writer = tfds.core.SequentialWriter(info, EXAMPLES_PER_FILE, file_format=FILE_FORMAT)
    writer.initialize_splits([RECORD_SPLIT])
    shown = tracked(examples, "writing examples", len(examples))
    # One call for all: each writes the description again.
    writer.add_examples({RECORD_SPLIT: map(_record, shown)})
    writer.close_all()
    for name, values in make_index(examples).items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def make_index(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """What batches are planned from, one entry for each example.

    `lengths`, `labels`, `grades`, `starts` (tokens before the document), `queries` and `documents` (both
    numbered from 0 in their order; see `_number_documents`) are int32, `scores` float32.
    """
    queries: dict[str, int] = {}
    return {
        "lengths": np.array([len(example.tokens) for example in examples], np.int32),
        "labels": np.array([example.label for example in examples], np.int32),
        "grades": np.array([example.grade for example in examples], np.int32),
        "scores": np.array([example.score for example in examples], np.float32),
        "starts": np.array([example.document_start for example in examples], np.int32),
        "queries": np.array([queries.setdefault(e.query_id, len(queries)) for e in examples], np.int32),
        "documents": np.array(_number_documents(examples), np.int32),
    }


def _number_documents(examples: Sequence[Example]) -> list[int]:
    """Numbers from 0 in the order of the examples: one for all that share a document's id or its text.

    Copies have one text under several ids; a document that a query was made from has several texts.
    """
    first_of: dict[str | bytes, int] = {}  # id or text -> the first example with it
    leader = list(range(len(examples)))  # an earlier example of the same document, or the example itself

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for place, example in enumerate(examples):
        names: tuple[str | bytes, ...] = (example.document_id, example.document_key or example.document_id)
        for name in names:
            one, other = find(first_of.setdefault(name, place)), find(place)
            leader[max(one, other)] = min(one, other)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(find(place), len(numbers)) for place in range(len(examples))]


def ensure_records(
    cache: Path, deciding: Mapping[str, Any], make_examples: Callable[[], Sequence[Example]]
) -> Path:
    """The folder of the records with this content under `cache`; makes them when they are not there.

    They are written to a temporary folder beside it and renamed, so a folder with the final name is
    complete, whenever a run is killed or its machine goes down. Two processes may build at once: the first
    to finish wins.

    Args:
        deciding: everything the content depends on, as JSON values; also written into the folder.
        make_examples: called only when the records have to be written.
    """
    folder = cache / content_key(deciding)
    if folder.is_dir():
        return folder
    examples = make_examples()
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=cache))
    try:
        with naming_place(cache):
            _write(examples, unfinished)
            (unfinished / DESCRIPTION_FILE).write_text(json.dumps(deciding, indent=2, sort_keys=True) + "\n")
            reach_disk(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's folder is private; a cache may be shared
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def read_index(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of `make_index`, of all records in their order."""
    return {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in INDEX_FILES}
