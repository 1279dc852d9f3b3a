"""Where hard negatives are few, what is said is so, and what it advises helps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.corpora import load_groups
from prorank_jax.negatives import make_groups
from prorank_jax.types import Document
from tests.cpu.data_fixtures import write_jsonl

CHINESE = (
    "茶树生长在温暖湿润的山坡上",
    "帆船靠风力在海面上航行",
    "马鞍放在马背上供人骑乘",
    "钢琴有八十八个琴键",
)
QUERIES = [f"q{number}" for number in range(9)]
TOLD = "and the others are drawn at random: "


def _unspaced() -> Collection:
    """Each query asks for a part of a clause, which is one word to BM25."""
    documents = {f"d{n}": Document(f"d{n}", f"{text}。") for n, text in enumerate(CHINESE * 5)}
    documents = {name: dataclasses.replace(d, title=f"第{name}号") for name, d in documents.items()}
    queries = {f"q{n}": text[2:7] for n, text in enumerate(CHINESE)}
    return Collection("unspaced", documents, queries, {f"q{n}": {f"d{n}": 1} for n in range(4)})


def _alike() -> Collection:
    """BM25 ranks every document for every query: relevant ones first, one that is judged irrelevant later."""
    documents = {f"d{n}": Document(f"d{n}", f"tea number {n}") for n in range(80)}
    queries = {query: f"which tea of {query}" for query in QUERIES}
    qrels = {query: {"d0": 1, "d1": 1, f"d{n + 20}": 0} for n, query in enumerate(QUERIES)}
    return Collection("alike", documents, queries, qrels)


def _said(
    caplog: pytest.LogCaptureFixture, collection: Collection, options: DataOptions, **others: Any
) -> str:
    """The whole of what mining says; "" for nothing."""
    caplog.clear()
    make_groups(collection, options, **others)
    return "\n".join(caplog.messages)


def test_negatives_that_bm25_does_not_find_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    said = _said(caplog, _unspaced(), DataOptions(negatives_per_query=4, hard_negatives=0.5))
    assert said.startswith(f"unspaced: BM25 found 0 of 8 hard negatives, {TOLD}it ranks only what shares a")
    assert "data.negatives_run" in said
    assert "negative_depth" not in said


def test_a_file_of_groups_is_not_told_to_name_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        {"query": f"which {word}", "pos": [f"{word} here"]} for word in ("tea", "boat", "horse", "piano")
    ]
    options = DataOptions(negatives_per_query=2, hard_negatives=1.0)
    source = str(write_jsonl(tmp_path / "short.jsonl", lines))
    load_groups(source, "all", options)
    (_, said) = caplog.messages
    assert f"BM25 found 0 of 8 hard negatives, {TOLD}it ranks only what shares a word" in said
    assert said.endswith("Give the queries harder ones of your own (neg), or lower data.hard_negatives")
    assert "negatives_run" not in said
    caplog.clear()
    load_groups(source, "all", dataclasses.replace(options, hard_negatives=0.0))
    given = [line | {"neg": ["some", "others"]} for line in lines]
    load_groups(str(write_jsonl(tmp_path / "given.jsonl", given)), "all", options)
    assert not any(TOLD in message for message in caplog.messages)


@pytest.mark.parametrize("is_run", [False, True], ids=["BM25", "run"])
@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [(21, 40, 24), (1, 9, 24), (1, 5, 5)],
    ids=["fewer ranks", "from the first one", "relevant ones on the ranks"],
)
def test_few_ranks_are_told_as_such_and_more_of_them_help(
    first: int, last: int, wanted: int, is_run: bool, caplog: pytest.LogCaptureFixture
) -> None:
    options = DataOptions(
        negatives_per_query=wanted, hard_negatives=1.0, negatives_from=first, negative_depth=last
    )
    collection = _alike()
    others = {"ranked": dict.fromkeys(QUERIES, tuple(collection.documents))} if is_run else {}
    said = _said(caplog, collection, options, **others)
    by = "data.negatives_run" if is_run else "BM25"
    assert f"alike: {by} found " in said
    assert f"{TOLD}{wanted} are wanted for a query, and only the ranks {first} to {last} are taken; " in said
    assert ("lower data.negatives_from" in said) == (first > 1)
    assert "words" not in said
    advised = {"negative_depth": 80, "hard_negatives": 0.3}
    advised |= {"negatives_from": 1} if first > 1 else {}
    for name, value in advised.items():
        assert f"data.{name}" in said
        assert not _said(caplog, collection, dataclasses.replace(options, **{name: value}), **others)


@pytest.mark.parametrize(("depth", "is_told"), [(2, True), (3, False), (30, False)])
def test_a_run_with_few_negatives_is_told_of(
    depth: int, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where three of each query are wanted of it, beside one that is judged."""
    unjudged = [f"d{number}" for number in range(70, 80)]
    options = DataOptions(negatives_per_query=4, hard_negatives=1.0, negative_depth=depth)
    told = f"alike: data.negatives_run found 18 of 27 hard negatives, {TOLD}"
    said = _said(caplog, _alike(), options, ranked=dict.fromkeys(QUERIES, unjudged))
    assert (said.startswith(told), bool(said)) == (is_told, is_told)
    # A run that ends there is too short itself, however deep it may be read.
    options = dataclasses.replace(options, negative_depth=50)
    said = _said(caplog, _alike(), options, ranked=dict.fromkeys(QUERIES, unjudged[:depth]))
    assert said == (f"{told}give a deeper run, or lower data.hard_negatives" if is_told else "")


def test_where_enough_hard_negatives_are_found_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not _said(caplog, _alike(), DataOptions(negatives_per_query=8, hard_negatives=1.0))
    assert not _said(caplog, _unspaced(), DataOptions(negatives_per_query=4, hard_negatives=0.0))
