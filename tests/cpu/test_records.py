"""Records of any number are written where they belong, whole or not at all."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle

from prorank_jax import records
from prorank_jax.records import Example, RecordReader, content_key, ensure_records, read_index


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    example = Example("q", "d", np.arange(5, dtype=np.int32), label=1, grade=2)
    folder = ensure_records(tmp_path / "cache", {"name": "one"}, lambda: [example])
    assert RecordReader(folder)[0].tokens.tolist() == [0, 1, 2, 3, 4]
    assert list(temporary.iterdir()) == []


def _examples(count: int) -> list[Example]:
    source = np.random.default_rng(0)
    return [
        Example(
            f"q{number // 5}",
            f"d{number}é",
            source.integers(0, 150_000, source.integers(1, 90)).astype(np.int32),
            label=number % 2,
            grade=number % 3,
            score=number / 4,
            document_start=number % 4,
        )
        for number in range(count)
    ]


def _fields(example: Example) -> dict:
    return dataclasses.asdict(example) | {"tokens": example.tokens.tolist()}


def test_a_set_above_what_a_builder_of_tfds_holds_in_memory_comes_back_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 200_000)
    monkeypatch.setattr(records, "EXAMPLES_PER_FILE", 1_000)
    examples = _examples(3_100)
    folder = ensure_records(tmp_path, {"name": "large"}, lambda: examples)
    assert sum(file.stat().st_size for file in folder.rglob("*array_record-*")) > 200_000
    assert len(list(folder.rglob("*array_record-*"))) == 4
    reader = RecordReader(folder)
    assert len(reader) == len(read_index(folder)["lengths"]) == 3_100
    assert [_fields(reader[position]) for position in range(3_100)] == list(map(_fields, examples))
    assert "tensorflow" not in sys.modules


def test_records_of_a_builder_of_tfds_are_still_read(tmp_path):
    """Files made by earlier versions have another naming, which their own description holds."""
    examples = _examples(3)
    folder = ensure_records(tmp_path, {"name": "older"}, lambda: examples)
    (file,) = folder.rglob("*array_record-00000")
    file.rename(f"{file}-of-00001")
    (description,) = folder.rglob("dataset_info.json")
    content = json.loads(description.read_text())
    content["splits"][0]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    description.write_text(json.dumps(content))
    assert [_fields(RecordReader(folder)[position]) for position in range(3)] == list(map(_fields, examples))


@pytest.mark.parametrize("written", [0, 2, 7])
def test_a_set_that_failed_while_it_was_written_is_built_again(written: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(records, "EXAMPLES_PER_FILE", 2)
    examples, made = _examples(10), itertools.count()
    to_record = records._record

    def failing(example: Example) -> dict:
        if next(made) == written:
            raise OSError("disk full")
        return to_record(example)

    monkeypatch.setattr(records, "_record", failing)
    with pytest.raises(OSError, match="disk full"):
        ensure_records(tmp_path, {"name": "one"}, lambda: examples)
    assert list(tmp_path.iterdir()) == []
    folder = ensure_records(tmp_path, {"name": "one"}, lambda: examples)
    assert folder.name == content_key({"name": "one"})
    assert [RecordReader(folder)[position].document_id for position in range(10)] == [
        example.document_id for example in examples
    ]
