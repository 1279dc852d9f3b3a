"""What a run says of its examples before it trains: counts that agree with a look at each of them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prorank_jax.config import DataOptions, RankingOptions, RunConfig
from prorank_jax.data import ExampleSet
from prorank_jax.example_notices import MOST_CUT_UNTOLD, example_notices
from prorank_jax.pseudo_queries import PSEUDO_PREFIX
from prorank_jax.run_examples import open_examples
from tests.cpu.data_fixtures import WordRenderer, write_jsonl


class _Examples:
    """Of each query, so many examples; the last queries are made ones. It counts what is read."""

    def __init__(self, judged: list[int], made: list[int]) -> None:
        names = [f"q{n}" for n in range(len(judged))] + [f"{PSEUDO_PREFIX}d{n}" for n in range(len(made))]
        self.queries = np.repeat(np.arange(len(names)), judged + made)
        self.labels = np.ones(len(self.queries), np.int32)
        self.lengths = np.full(len(self.queries), 9)
        self.scores = np.full(len(self.queries), math.nan, np.float32)
        self.reads = 0
        self._names = names

    def __getitem__(self, position: int) -> Any:
        self.reads += 1
        return SimpleNamespace(query_id=self._names[self.queries[position]])


COUNTS = st.lists(st.integers(1, 3), max_size=40)


@given(judged=COUNTS.filter(bool), made=COUNTS)
def test_made_queries_are_counted_with_few_reads(judged: list[int], made: list[int]) -> None:
    examples, queries = _Examples(judged, made), len(judged) + len(made)
    config = RunConfig(data=DataOptions(pseudo_queries=50))
    said = example_notices(config, examples)  # type: ignore[arg-type]
    start = f"{len(made)} of {queries} queries are made from documents; data.pseudo_queries 0"
    assert [sentence.startswith(start) for sentence in said] == [True] * bool(made)
    assert examples.reads <= math.log2(queries) + 1


def _file(folder: Path, count: int) -> Path:
    def passage(kind: str, n: int) -> str:
        sentences = (f"{kind}{part} number{n} tells of word{n}{part} in its own way." for part in range(3))
        return " ".join(sentences)

    lines = [
        {"query": f"question {n}", "pos": [passage("yes", n)], "neg": [passage("no", n)], "pos_scores": [1]}
        for n in range(count)
    ]
    return write_jsonl(folder / "mine.jsonl", lines)


def _opened(file: Path, cache: Path, stage: int = 2, **options: Any) -> tuple[ExampleSet, list[str]]:
    console = Console(file=io.StringIO(), width=400)
    config = RunConfig(stage=stage, data=DataOptions(source=str(file), **options))
    examples, _ = open_examples(config, WordRenderer(config.data.max_length), console, cache, is_leaders=True)
    return examples, console.file.getvalue().splitlines()[1:]


@pytest.mark.parametrize("wanted", [0, 6, 500])
def test_made_queries_are_told_of_new_and_of_known_examples(wanted: int, tmp_path: Path) -> None:
    file = _file(tmp_path, 40)
    for _ in range(2):  # built, then read again
        examples, said = _opened(file, tmp_path / "cache", stage=1, max_length=96, pseudo_queries=wanted)
        names = {examples[position].query_id for position in range(len(examples))}
        made = sum(name.startswith(PSEUDO_PREFIX) for name in names)
        assert (made > 0) == (wanted > 0)
        told = f"data: {made} of {len(names)} queries are made from documents; data.pseudo_queries 0 leaves"
        assert [line.startswith(told) for line in said if "made from" in line] == [True] * bool(made)


@pytest.mark.parametrize("excerpts", ["head", "key_sentences"])
def test_the_share_of_cut_prompts_is_told_where_it_is_more_than_a_few(excerpts: str) -> None:
    examples, config = _Examples([1] * 100, []), RunConfig(data=DataOptions(max_length=96, excerpts=excerpts))
    few = int(100 * MOST_CUT_UNTOLD)
    examples.lengths[:few] = 96
    assert example_notices(config, examples) == []  # type: ignore[arg-type]
    examples.lengths[few] = 96
    (said,) = example_notices(config, examples)  # type: ignore[arg-type]
    assert said.startswith(f"{few + 1}% of the prompts fill data.max_length")
    assert ("data.excerpts key_sentences" in said) == (excerpts == "head")


@pytest.mark.parametrize("excerpts", ["head", "key_sentences"])
@pytest.mark.parametrize("borrowed", [0, 2])
def test_sentences_that_were_chosen_for_another_query_are_told(excerpts: str, borrowed: int) -> None:
    ranking = RankingOptions(losses="info_nce=1", in_batch_negatives=borrowed)
    config = RunConfig(stage=2, data=DataOptions(excerpts=excerpts), ranking=ranking)
    said = example_notices(config, _Examples([1] * 40, []))  # type: ignore[arg-type]
    assert bool(said) == (borrowed > 0 and excerpts == "key_sentences")
    assert all("ranking.in_batch_negatives borrows show the sentences" in sentence for sentence in said)


def test_a_run_tells_at_its_start_what_its_losses_make_of_a_teachers_probabilities(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    data = DataOptions(source=str(_file(tmp_path, 40)), max_length=96)
    config = RunConfig(stage=2, data=data, ranking=RankingOptions("margin_mse=1"))
    open_examples(config, WordRenderer(96), console, tmp_path / "cache", is_leaders=True)
    assert "data: the teacher's scores go from 1 to 1, as probabilities do" in console.file.getvalue()


def test_a_run_tells_at_its_start_what_is_cut_and_which_scores_are_unread(tmp_path: Path) -> None:
    file = _file(tmp_path, 40)
    examples, said = _opened(file, tmp_path / "cache", max_length=24)
    cut = np.mean(examples.lengths == 24)
    assert cut > 0.5
    assert said[0].startswith(f"data: {cut:.0%} of the prompts fill data.max_length")
    assert said[1].startswith(f"data: {len(examples) // 2} of {len(examples)} pairs have a teacher's score")
    assert len(said) == 2
    assert _opened(file, tmp_path / "cache", stage=1, max_length=96)[1] == []
