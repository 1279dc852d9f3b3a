"""A run that negatives come from is of all queries to train on and of this collection, or it is refused."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest

from prorank_jax import irds
from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.corpora import load_collection, load_groups, queries_to_train_on
from prorank_jax.data import open_dataset
from prorank_jax.negatives_run import check_negatives_run, ranking_content, read_negatives_run
from prorank_jax.query_choice import QueryChoice, choose_queries
from prorank_jax.run_examples import check_sources
from prorank_jax.trec import write_run
from tests.cpu.data_fixtures import (
    Doc,
    Qrel,
    Query,
    WordRenderer,
    fake_ir_dataset,
    write_beir_folder,
    write_jsonl,
)

QUERIES = [f"q{number}" for number in range(10)]
# What no query shares a word with but its own: BM25 ranks none of them for another.
FOREIGN = {
    query: [f"d{(number + step) % 10}-2" for step in range(1, 7)] for number, query in enumerate(QUERIES)
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_beir_folder(tmp_path / "beir"))


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(max_length=96, hard_negatives=1.0, negatives_run=str(tmp_path / "dense.trec"))


def _write(options: DataOptions, rankings: dict[str, list[str]]) -> None:
    write_run(Path(options.negatives_run), rankings, "dense")


def test_hard_negatives_are_those_of_the_run(source: str, options: DataOptions) -> None:
    _write(options, FOREIGN)
    for group in load_groups(source, "train", options):
        mined = {candidate.document.id for candidate in group.candidates if candidate.grade < 1}
        assert len(mined) == 4
        assert mined <= set(FOREIGN[group.query_id])
    deeper = dataclasses.replace(options, negatives_from=2, negative_depth=5)
    for group in load_groups(source, "train", deeper):
        mined = {candidate.document.id for candidate in group.candidates if candidate.grade < 1}
        assert mined == set(FOREIGN[group.query_id][1:5])


def test_made_queries_keep_to_bm25(options: DataOptions) -> None:
    """No run ranks them."""
    collection = load_collection("demo", "train")
    _write(options, dict.fromkeys(collection.qrels, sorted(collection.documents)))
    options = dataclasses.replace(options, pseudo_queries=3)
    with_run = load_groups("demo", "train", options)
    without = load_groups("demo", "train", dataclasses.replace(options, negatives_run=""))
    assert len(with_run) == len(without)
    assert with_run[-3:] == without[-3:]
    assert with_run[:-3] != without[:-3]


def test_a_run_comes_by_url(
    tmp_path: Path, source: str, options: DataOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    _write(options, FOREIGN)
    there = dataclasses.replace(options, negatives_run=f"file://{options.negatives_run}")
    assert load_groups(source, "train", there) == load_groups(source, "train", options)
    assert ranking_content(there) == ranking_content(options)


def test_a_packed_run_gives_the_negatives_of_the_plain_one(source: str, options: DataOptions) -> None:
    _write(options, FOREIGN)
    plain = Path(options.negatives_run)
    packed = dataclasses.replace(options, negatives_run=f"{plain}.gz")
    Path(packed.negatives_run).write_bytes(gzip.compress(plain.read_bytes()))
    check_negatives_run(packed, set(QUERIES))
    assert load_groups(source, "train", packed) == load_groups(source, "train", options)


def test_a_run_that_lacks_queries_is_refused(source: str, options: DataOptions) -> None:
    _write(options, {query: FOREIGN[query] for query in QUERIES[3:]} | {"other": ["d0-0"]})
    lacks = r"^data\.negatives_run='.*dense.trec': lacks 3 of the 10 queries to train on \('q0', 'q1', 'q2'\)"
    with pytest.raises(ValueError, match=lacks):
        load_groups(source, "train", options)
    with pytest.raises(ValueError, match=lacks):
        check_negatives_run(options, set(QUERIES))
    check_negatives_run(options, set(QUERIES[3:]))


def test_only_queries_to_train_on_must_be_there(source: str, options: DataOptions) -> None:
    """Not those without a relevant document, held-out ones, and those that max_queries leaves out."""
    asked = load_collection(source, "train").queries
    judged = Path(source) / "qrels" / "train.tsv"
    judged.write_text(judged.read_text().replace("q0\td0-0\t2", "q0\td0-0\t0").replace("q0\td0-1\t1\n", ""))
    choice = QueryChoice(frozenset({asked["q1"]}), most=5)
    chosen = queries_to_train_on(source, "train", options, 7, choice)
    assert len(chosen) == 5
    assert chosen.isdisjoint({"q0", "q1"})
    _write(options, {query: FOREIGN[query] for query in sorted(chosen)})
    check_negatives_run(options, chosen)
    groups = load_groups(source, "train", options, 7, choice=choice)
    assert {group.query_id for group in groups} == chosen


@pytest.mark.parametrize("most", [0, 3])
def test_of_ir_datasets_only_what_documents_cannot_change_is_refused_early(
    most: int, options: DataOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its judgements may name absent documents: those tell which queries are left, and so which are drawn."""
    documents = [Doc(f"{query}-{n}", "", f"{query} {n}") for query in QUERIES for n in range(3)]
    dataset = fake_ir_dataset(
        docs=documents,
        queries=[Query(query, f"which {query}") for query in QUERIES],
        qrels=[Qrel(query, "gone" if query == "q4" else f"{query}-0", 1) for query in QUERIES],
    )
    monkeypatch.setattr(irds, "find_dataset", lambda *_: dataset)
    data = dataclasses.replace(
        options, source="ir_datasets:fake/train", probe_source="demo", max_queries=most
    )
    config = RunConfig(data=data)

    def trained_on(data: DataOptions) -> set[str]:
        choice = QueryChoice(most=most or None)
        return {group.query_id for group in load_groups(data.source, "", data, choice=choice)}

    trained = trained_on(dataclasses.replace(data, negatives_run=""))
    assert len(trained) == (most or 9)
    ranking = [document.doc_id for document in documents]
    _write(options, dict.fromkeys(sorted(trained), ranking))
    check_sources(config)
    assert trained_on(data) == trained
    _write(options, dict.fromkeys(sorted(trained)[1:], ranking))
    caplog.clear()
    check_sources(config)
    assert f"lacks {11 - len(trained)} of 10 queries (" in caplog.text
    with pytest.raises(ValueError, match=rf"lacks 1 of the {most or 9} queries to train on"):
        trained_on(data)
    _write(options, {"other": ranking})
    with pytest.raises(ValueError, match=r"lacks 10 of the 10 queries to train on"):
        check_sources(config)


def test_documents_of_another_collection_are_refused(source: str, options: DataOptions) -> None:
    _write(options, FOREIGN | {"q3": ["d0-0", "x", "y"], "q4": ["y"], "other": ["z"]})
    with pytest.raises(
        ValueError, match=r"ranks 2 documents that .*/train lacks \('x', 'y'\); give a run of"
    ):
        load_groups(source, "train", options)


def test_no_deeper_ranks_are_kept(source: str, options: DataOptions) -> None:
    _write(options, FOREIGN)
    collection = choose_queries(load_collection(source, "train"), QueryChoice(), 1, 0)
    shallow = dataclasses.replace(options, negative_depth=2)
    assert read_negatives_run(shallow, collection) == {query: ids[:2] for query, ids in FOREIGN.items()}
    assert read_negatives_run(dataclasses.replace(options, negatives_run=""), collection) is None


def test_a_missing_file_and_a_file_of_groups_are_refused(
    tmp_path: Path, source: str, options: DataOptions
) -> None:
    with pytest.raises(
        ValueError, match=r"^data\.negatives_run='.*dense.trec': no such file; name a TREC run"
    ):
        load_groups(source, "train", options)
    groups = write_jsonl(tmp_path / "train.jsonl", [{"query": "q", "pos": ["a"], "neg": ["b"]}])
    _write(options, FOREIGN)
    with pytest.raises(ValueError, match=r"^data\.negatives_run=.*train.jsonl names no documents; write"):
        load_groups(str(groups), "all", options)


def test_the_run_and_its_first_rank_name_the_examples(
    tmp_path: Path, source: str, options: DataOptions
) -> None:
    def opened(options: DataOptions) -> Path:
        return open_dataset(source, "train", options, WordRenderer(), tmp_path / "cache", 0).folder

    plain = dataclasses.replace(options, negatives_run="")
    assert ranking_content(plain) == {}  # as before there was a choice
    _write(options, FOREIGN)
    first = opened(options)
    moved = str(Path(options.negatives_run).rename(tmp_path / "moved.trec"))
    assert opened(dataclasses.replace(options, negatives_run=moved)) == first
    others = {opened(plain), opened(dataclasses.replace(plain, negatives_from=2))}
    _write(options, FOREIGN | {"q0": FOREIGN["q0"][::-1]})
    others |= {opened(options), opened(dataclasses.replace(options, negatives_from=2))}
    assert len(others | {first}) == 5
