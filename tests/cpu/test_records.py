"""Records of any number are written where they belong, whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle

from prorank_jax import records
from prorank_jax.examples import ExampleSet
from prorank_jax.records import (
    DESCRIPTION_FILE,
    INDEX_FILES,
    Example,
    RecordReader,
    content_key,
    ensure_records,
    read_index,
)
from tests.cpu.disk_order import DiskOrder


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


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "never reached the disk": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whichever_file_is_damaged_its_folder_and_the_remedy_are_named(damage, tmp_path):
    whole = ensure_records(tmp_path, {"name": "one"}, lambda: _examples(20))
    files = [file.relative_to(whole) for file in whole.rglob("*") if file.is_file()]
    read = [file for file in files if file.name != DESCRIPTION_FILE]
    assert len(read) == len(INDEX_FILES) + 3
    folder = tmp_path / "damaged"
    for file in read:
        shutil.copytree(whole, folder)
        DAMAGES[damage](folder / file)
        with pytest.raises(ValueError, match=r"damaged: damaged \(.*\); delete it, and it is made again"):
            [_fields(example) for example in map(ExampleSet("one", folder).__getitem__, range(20))]
        shutil.rmtree(folder)


def test_files_of_two_sets_are_damage(tmp_path):
    one, other = (ensure_records(tmp_path, {"count": n}, lambda n=n: _examples(n)) for n in (3, 4))
    shutil.copy(one / "labels.npy", other)
    with pytest.raises(ValueError, match=r"damaged .*3 and 4 examples"):
        ExampleSet("other", other)


def test_a_place_that_cannot_be_used_at_present_is_no_damage(tmp_path, monkeypatch):
    examples = ExampleSet("one", ensure_records(tmp_path, {"name": "one"}, lambda: _examples(3)))
    for position in (-1, 3):
        with pytest.raises(IndexError, match=f"3 examples, none at {position}"):
            examples[position]
    for error in (PermissionError(errno.EACCES, "Permission denied"), MemoryError()):
        monkeypatch.setattr(RecordReader, "__getitem__", Mock(side_effect=error))
        with pytest.raises(type(error)):
            examples[0]


def test_a_set_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = DiskOrder(monkeypatch)
    ensure_records(tmp_path, {"name": "one"}, lambda: _examples(3))
    assert order.named > len(INDEX_FILES)
    assert order.too_early == []


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
