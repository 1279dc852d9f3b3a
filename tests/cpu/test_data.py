"""Examples are written once, and batches come in an order that survives stops and restarts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax import examples as examples_module
from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.data import build_examples, choose_buckets, open_dataset, train_iterator
from prorank_jax.records import make_index
from prorank_jax.run_inputs import fingerprint_inputs
from prorank_jax.types import Batch, Candidate, Document, RankingGroup
from tests.cpu.data_fixtures import REAL_DATA, MemoryExamples, WordRenderer, write_beir_folder

OPTIONS = DataOptions(max_length=96)
MEMORY = MemoryExamples([5 + 3 * (i % 9) for i in range(50)], [int(i % 5 < 2) for i in range(50)])
READ: dict[str, Any] = {"batch_size": 8, "seed": 3, "buckets": (16, 32)}


def _equal(left: Batch, right: Batch) -> None:
    for field in dataclasses.fields(Batch):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


def _take(count: int, **changes: Any) -> list[Batch]:
    iterator = train_iterator(MEMORY, **(READ | changes))
    return [next(iterator) for _ in range(count)]


# --- examples ----------------------------------------------------------------------------------------


def _group(grades: list[int]) -> RankingGroup:
    candidates = (Candidate(Document(f"d{i}", f"text {i}", "title"), grade) for i, grade in enumerate(grades))
    return RankingGroup("q", "the query", tuple(candidates))


def test_examples_are_all_relevant_candidates_and_the_first_others() -> None:
    options = DataOptions(relevant_grade=2, negatives_per_query=2)
    examples = build_examples([_group([0, 3, 1, 2, 0])], WordRenderer(), options)
    made = [(example.document_id, example.label, example.grade) for example in examples]
    assert made == [("d1", 1, 3), ("d3", 1, 2), ("d0", 0, 0), ("d2", 0, 1)]
    assert examples[0].tokens.tolist() == WordRenderer().render("the query", "title text 1")
    assert examples[0].tokens.dtype == np.int32


def test_the_digest_of_examples_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes compare it before a run, and the run remembers it as one of its inputs."""
    source = str(write_beir_folder(tmp_path / "beir"))
    train, dev = (
        open_dataset(source, "train", OPTIONS, WordRenderer(), tmp_path / "cache", seed) for seed in (0, 1)
    )
    made = []

    def counting(*given: bytes) -> Any:
        made.append(given)
        return hashlib.sha256(*given)

    monkeypatch.setattr(examples_module, "hashlib", SimpleNamespace(sha256=counting))
    first = fingerprint_inputs(RunConfig(), train, dev, uses_reference=False)
    assert fingerprint_inputs(RunConfig(), train, dev, uses_reference=False) == first
    assert len(set(first.values())) == len(made) == 2


def test_copies_of_a_document_are_one_to_the_lists_that_borrow() -> None:
    texts = {"a": "same words", "b": "other words", "copy": "same words"}
    groups = [
        RankingGroup("q", "first", tuple(Candidate(Document(i, texts[i]), 1) for i in ("a", "b"))),
        RankingGroup("r", "second", (Candidate(Document("copy", texts["copy"]), 1),)),
    ]
    assert make_index(build_examples(groups, WordRenderer(), OPTIONS))["documents"].tolist() == [0, 1, 0]


def test_the_texts_of_one_document_are_one_to_the_lists_that_borrow() -> None:
    """A query that was made from a document has it without the title or the sentence that it asks with."""
    whole, body, other = Document("d", "body", "title"), Document("d", "body"), Document("e", "else")
    copy = Document("copy", "body")
    groups = [
        RankingGroup(query, query, tuple(Candidate(document, 1) for document in documents))
        for query, documents in (("q", (whole, other)), ("r", (copy,)), ("s", (body,)))
    ]
    assert make_index(build_examples(groups, WordRenderer(), OPTIONS))["documents"].tolist() == [0, 1, 0, 0]


def test_examples_need_groups_and_prompts_within_the_limit() -> None:
    with pytest.raises(ValueError, match=r"no ranking groups"):
        build_examples([], WordRenderer(), OPTIONS)

    class Endless(WordRenderer):
        def render(self, query: str, document: str) -> list[int]:
            return super().render(query, document) * 50

    with pytest.raises(ValueError, match=r"the prompt of query 'q' and document 'd0' has \d+ tokens"):
        build_examples([_group([1])], Endless(), OPTIONS)


def test_records_give_back_what_was_written(tmp_path: Path) -> None:
    source = str(write_beir_folder(tmp_path / "beir"))
    examples = open_dataset(source, "train", OPTIONS, WordRenderer(), tmp_path / "cache", seed=0)
    assert len(examples) == 10 * (2 + OPTIONS.negatives_per_query)
    assert examples.labels.sum() == 20
    read = [examples[i] for i in range(len(examples))]
    assert [len(example.tokens) for example in read] == examples.lengths.tolist()
    assert [example.label for example in read] == examples.labels.tolist()
    assert (read[0].query_id, read[0].document_id, read[0].grade) == ("q0", "d0-0", 2)
    expected = WordRenderer().render("what is apple0", "about apple0 apple0 text number 0")
    assert read[0].tokens.tolist() == expected
    assert "tensorflow" not in sys.modules


def test_records_are_used_again_until_something_that_decides_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = write_beir_folder(tmp_path / "beir"), tmp_path / "cache"
    builds = []

    def count_builds(*arguments: Any) -> Any:
        builds.append(arguments)
        return build_examples(*arguments)

    monkeypatch.setattr(examples_module, "build_examples", count_builds)

    def opened(options: DataOptions = OPTIONS, renderer: WordRenderer | None = None, seed: int = 0) -> Path:
        return open_dataset(str(folder), "train", options, renderer or WordRenderer(), cache, seed).folder

    first = opened()
    # These decide nothing about the examples.
    assert opened(dataclasses.replace(OPTIONS, buckets=(48, 96), probe_split="test")) == first
    assert len(builds) == 1
    others = {
        opened(seed=1),
        opened(renderer=WordRenderer(80)),
        opened(dataclasses.replace(OPTIONS, relevant_grade=2)),
        opened(dataclasses.replace(OPTIONS, hard_negatives=0.0)),
    }
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "one more"}\n')
    others.add(opened())
    assert len(others - {first}) == len(builds) - 1 == 5
    assert sorted(path.name for path in cache.iterdir()) == sorted({p.name for p in others | {first}})


@pytest.mark.parametrize("place", ["np.save", "_record"])
def test_a_kill_while_writing_leaves_nothing_that_is_taken_for_whole(place: str, tmp_path: Path) -> None:
    source = str(write_beir_folder(tmp_path / "beir"))
    code = f"""
import os, signal
from tests.cpu.data_fixtures import WordRenderer
from prorank_jax import records
from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.data import open_dataset
records.{place} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
open_dataset({source!r}, "train", DataOptions(max_length=96), WordRenderer(), {str(tmp_path / "cache")!r}, 0)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (leftover,) = (tmp_path / "cache").iterdir()
    assert leftover.name.startswith(".unfinished-")
    os.utime(leftover, (0, 0))
    examples = open_dataset(source, "train", OPTIONS, WordRenderer(), tmp_path / "cache", 0)
    assert len(examples) == 60
    assert list((tmp_path / "cache").iterdir()) == [examples.folder]


def test_an_error_while_writing_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(write_beir_folder(tmp_path / "beir"))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("prorank_jax.records.np.save", fail)
        with pytest.raises(OSError, match=r"disk full"):
            open_dataset(source, "train", OPTIONS, WordRenderer(), tmp_path / "cache", 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_builders_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = str(write_beir_folder(tmp_path / "beir")), tmp_path / "cache"
    first = []

    def overtaken(*arguments: Any) -> Any:
        if not first:
            first.append(None)
            first[0] = open_dataset(source, "train", OPTIONS, WordRenderer(), cache, 0).folder
        return build_examples(*arguments)

    monkeypatch.setattr(examples_module, "build_examples", overtaken)
    second = open_dataset(source, "train", OPTIONS, WordRenderer(), cache, 0)
    assert second.folder == first[0]
    assert list(cache.iterdir()) == [second.folder]


# --- batches -----------------------------------------------------------------------------------------


def test_batches_hold_the_examples_they_name() -> None:
    for batch in _take(12):
        rows, length = batch.tokens.shape
        assert rows == 8
        assert length in READ["buckets"]
        assert batch.labels.sum() == 4
        assert {array.dtype for array in (batch.tokens, batch.lengths, batch.labels, batch.examples)} == {
            np.dtype(np.int32)
        }
        for tokens, count, label, position in zip(
            batch.tokens, batch.lengths, batch.labels, batch.examples, strict=True
        ):
            example = MEMORY[position]
            np.testing.assert_array_equal(tokens[:count], example.tokens)
            assert not tokens[count:].any()
            assert label == example.label


@given(stop=st.integers(0, 25), seed=st.integers(0, 3), data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_resumed_run_reads_what_one_never_stopped_reads(stop: int, seed: int, data: st.DataObject) -> None:
    whole = _take(30, seed=seed)
    stopped = train_iterator(MEMORY, **(READ | {"seed": seed}))
    for _ in range(stop):
        next(stopped)
    state = json.loads(json.dumps(stopped.get_state()))
    resumed = train_iterator(MEMORY, **(READ | {"seed": seed}))
    for _ in range(data.draw(st.integers(0, 3))):
        next(resumed)  # a state may be set on an iterator that was used before
    resumed.set_state(state)
    started = train_iterator(MEMORY, **(READ | {"seed": seed}), start_step=stop)
    for step in range(stop, stop + 5):
        _equal(next(resumed), whole[step])
        _equal(next(started), whole[step])
    assert started.get_state() == resumed.get_state()


@given(process_count=st.sampled_from([1, 2, 4, 8]), start=st.integers(0, 20))
@settings(max_examples=12, deadline=None)
def test_processes_share_the_global_batch(process_count: int, start: int) -> None:
    whole = _take(3, start_step=start)
    shares = [
        _take(3, start_step=start, rows=rows)
        for rows in np.split(np.arange(READ["batch_size"]), process_count)
    ]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        _equal(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), batch)


def test_a_state_moves_to_another_number_of_processes() -> None:
    alone = train_iterator(MEMORY, **READ)
    for _ in range(7):
        next(alone)
    states = alone.get_state()
    half = train_iterator(MEMORY, **READ, rows=np.arange(4, 8))
    half.set_state(states)
    np.testing.assert_array_equal(next(half).tokens, next(alone).tokens[4:])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start_step": -1}, "start_step=-1: must be at least 0"),
        ({"buckets": (16,)}, "a prompt has 29 tokens"),
        ({"batch_size": 42}, "half of a batch is 21 examples"),
    ],
)
def test_impossible_iterators_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        train_iterator(MEMORY, **(READ | changes))


# --- from end to end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["demo", "cranfield"])
def test_from_a_source_to_batches(source: str, tmp_path: Path) -> None:
    folder = REAL_DATA / source
    if source != "demo" and not folder.is_dir():
        pytest.skip(f"no {folder}; set PRORANK_DATA to the folder that holds {source}")
    name = source if source == "demo" else str(folder)
    options = dataclasses.replace(OPTIONS, relevant_grade=2)
    examples = open_dataset(name, "train", options, WordRenderer(), tmp_path, seed=0)
    buckets = choose_buckets(examples.lengths, options.max_length)
    iterator = train_iterator(examples, batch_size=8, seed=0, buckets=buckets)
    for _ in range(5):
        batch = next(iterator)
        assert batch.labels.sum() == 4
        assert batch.tokens.shape[1] in buckets
        for tokens, count, position in zip(batch.tokens, batch.lengths, batch.examples, strict=True):
            np.testing.assert_array_equal(tokens[:count], examples[position].tokens)
