"""Collections are read from every source, and each flaw is one clear ValueError."""

from __future__ import annotations

import dataclasses
import gzip
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prorank_jax import beir_folder, irds, named_documents
from prorank_jax.bm25 import Bm25Index
from prorank_jax.collection import Choice, Collection, Named
from prorank_jax.config import DataOptions
from prorank_jax.corpora import judged_queries, load_collection, load_groups, source_fingerprint
from prorank_jax.embedding_jsonl import split_of
from prorank_jax.source_names import SourceFields
from prorank_jax.storage_faults import UnfetchedError
from tests.cpu.data_fixtures import (
    REAL_DATA,
    Doc,
    Qrel,
    Query,
    fake_ir_dataset,
    write_beir_folder,
    write_jsonl,
)


def test_beir_folder_is_read_in_full(tmp_path: Path) -> None:
    collection = load_collection(str(write_beir_folder(tmp_path / "beir")), "train")
    assert len(collection.documents) == 30
    assert collection.documents["d3-1"].full_text == "about cloud0 cloud0 text number 1"
    assert collection.queries["q2"] == "what is stone0"
    assert collection.qrels["q2"] == {"d2-0": 2, "d2-1": 1}


def _pack(file: Path, keep: bool = False) -> None:
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    if not keep:
        file.unlink()


@pytest.mark.parametrize("is_at_url", [False, True])
def test_a_packed_folder_is_the_same_collection(is_at_url: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    plain, packed = (write_beir_folder(tmp_path / name) for name in ("plain", "packed"))
    for name in ("corpus.jsonl", "queries.jsonl"):
        _pack(packed / name)
    source = packed.as_uri() if is_at_url else str(packed)
    expected = load_collection(str(plain), "train")
    assert dataclasses.replace(load_collection(source, "train"), name=expected.name) == expected
    assert judged_queries(source, "train", DataOptions()) == expected.queries
    assert source_fingerprint(source, "train") == source_fingerprint(str(plain), "train")


def test_of_a_file_that_is_there_twice_the_plain_one_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    folder = write_beir_folder(tmp_path / "beir")
    _pack(folder / "corpus.jsonl", keep=True)
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "new", "text": "here"}\n')
    assert "new" in load_collection(str(folder), "train").documents
    assert "new" in load_collection(folder.as_uri(), "train").documents
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_a_packed_file_of_groups_has_the_same_groups(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "f.jsonl", [{"query": f"what {n}", "pos": ["a"], "neg": ["b"]} for n in "xyz"]
    )
    expected, content = load_groups(str(file), "all", DataOptions()), source_fingerprint(str(file), "all")
    _pack(file)
    assert load_groups(f"{file}.gz", "all", DataOptions()) == expected
    assert source_fingerprint(f"{file}.gz", "all") == content


def test_what_cannot_be_unpacked_has_no_fingerprint(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    _pack(folder / "corpus.jsonl")
    (folder / "corpus.jsonl.gz").write_bytes((folder / "corpus.jsonl.gz").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz: cannot be unpacked"):
        source_fingerprint(str(folder), "train")


def test_beir_folder_without_header_titles_and_with_surrogates(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "beir", queries=1)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "x \\ud800 y"}\n\n{"_id": "b", "title": null, "text": ""}\n'
    )
    (folder / "qrels" / "train.tsv").write_text("q0\ta\t-1\r\nq0\tb\t+1\r\n")
    collection = load_collection(str(folder), "train")
    assert collection.documents["a"].full_text == "x ? y"
    assert collection.qrels == {"q0": {"a": -1, "b": 1}}


def _replace_line(path: Path, number: int, line: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize("split", ["./train", "../qrels/train", "train/", ""])
def test_a_split_has_one_name(split: str, tmp_path: Path) -> None:
    """By two names a split could be trained on and measured."""
    with pytest.raises(ValueError, match=rf"data\.split='{split}': "):
        load_collection(str(write_beir_folder(tmp_path / "beir")), split)


@pytest.mark.parametrize(
    ("file", "number", "line", "expected"),
    [
        ("corpus.jsonl", 2, b"{oops", "corpus.jsonl, line 2: not JSON"),
        (
            "corpus.jsonl",
            2,
            b'{"_id": ' + b"1" * 5000 + b"}",
            "line 2: not JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
            "digits); write one JSON object",
        ),
        ("corpus.jsonl", 2, b"[1]", "corpus.jsonl, line 2: list instead of an object"),
        ("corpus.jsonl", 2, b'{"_id": "x", "text": "\xff"}', "corpus.jsonl, line 2: byte 23 is not UTF-8"),
        (
            "corpus.jsonl",
            1,
            b"\x1f\x8b\x08",
            "corpus.jsonl, line 1: byte 2 is not UTF-8; unpack it with gunzip",
        ),
        ("corpus.jsonl", 2, b'{"_id": "d0-0", "text": "x"}', "line 2: the id 'd0-0' was there before"),
        ("corpus.jsonl", 2, b'{"_id": 7, "text": "x"}', "line 2: _id=7 is int; write it as a string"),
        ("corpus.jsonl", 2, b'{"_id": "", "text": "x"}', "line 2: _id is empty"),
        ("corpus.jsonl", 2, b'{"_id": "x"}', "line 2: no field 'text'"),
        ("corpus.jsonl", 2, b'{"_id": "x", "text": null}', "line 2: text=None is NoneType"),
        ("corpus.jsonl", 2, b'{"_id": "x", "text": "", "title": 3}', "line 2: title=3 is int"),
        ("corpus.jsonl", 2, b'{"_id": "x", "text": "x"}', "name 1 absent documents ('d0-1')"),
        ("queries.jsonl", 2, b'{"_id": "q1", "text": " "}', "line 2: the query 'q1' has an empty text"),
        ("queries.jsonl", 2, b'{"_id": "x", "text": "x"}', "name 1 absent queries ('q1')"),
        ("qrels/train.tsv", 3, b"q0\td0-0\t1.5", "train.tsv, line 3: the grade '1.5' is not an integer"),
        (
            "qrels/train.tsv",
            3,
            b"q0\td0-0\t3000000000",
            "line 3: the grade '3000000000' is too large; write 0, 1",
        ),
        (
            "qrels/train.tsv",
            3,
            b"q0\td0-0\t" + b"1" * 5000,
            "line 3: the grade '11111111111111111111' is too",
        ),
        ("qrels/train.tsv", 1, b"q0\td0-0\t2.5", "train.tsv, line 1: the grade '2.5' is not an integer"),
        ("qrels/train.tsv", 3, b"q0 d0-0 1", "train.tsv, line 3: 1 columns"),
        ("qrels/train.tsv", 3, b"q0\t0\td0-0\t1", "train.tsv, line 3: 4 columns"),
        ("qrels/train.tsv", 3, b"q0\td0-0\t1", "have the grades 2 and 1; keep one"),
    ],
)
def test_flaws_of_beir_files_name_their_line(
    tmp_path: Path, file: str, number: int, line: bytes, expected: str
) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    _replace_line(folder / file, number, line)
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_collection(str(folder), "train")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_empty_files_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    (folder / name).write_text("")
    with pytest.raises(ValueError, match=r"holds no (documents|queries|qrels)"):
        load_collection(str(folder), "train")


def test_absent_documents_are_counted_and_some_named(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "other", "text": "x"}])
    with pytest.raises(ValueError, match=r"20 absent documents \('d0-0', 'd0-1', 'd1-0' and 17 more\)"):
        load_collection(str(folder), "train")


def test_what_is_measured_keeps_judgements_of_absent_documents(tmp_path: Path, caplog: Any) -> None:
    """As trec_eval counts them: nothing finds these documents. ArguAna has such."""
    folder = write_beir_folder(tmp_path / "beir")
    _replace_line(folder / "corpus.jsonl", 1, b'{"_id": "x", "text": "x"}')
    collection = load_collection(str(folder), "train", measured=True)
    assert collection.qrels["q0"] == {"d0-0": 2, "d0-1": 1}
    assert "d0-0" not in collection.documents
    assert "1 judged documents are absent, and count as not found: 'd0-0'" in caplog.text
    write_jsonl(folder / "corpus.jsonl", [{"_id": "other", "text": "x"}])
    with pytest.raises(ValueError, match="20 absent documents"):
        load_collection(str(folder), "train", measured=True)


def test_folder_that_is_not_beir_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"corpus.jsonl, qrels/ missing; a BEIR folder holds"):
        load_collection(str(tmp_path), "train")


def test_missing_split_lists_those_there_are(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    (folder / "qrels" / "dev.tsv").write_text("")
    with pytest.raises(ValueError, match=r"data.split='test'.*choose one of dev, train"):
        load_collection(str(folder), "test")


@pytest.mark.parametrize("load", [load_collection, source_fingerprint])
def test_unknown_sources_are_refused(tmp_path: Path, load: Any) -> None:
    with pytest.raises(ValueError, match=r"data.source='nowhere': no such file or folder; give 'demo'"):
        load("nowhere", "train")
    (tmp_path / "corpus.txt").write_text("")
    with pytest.raises(ValueError, match=r"not a kind of source"):
        load(str(tmp_path / "corpus.txt"), "train")


@pytest.mark.parametrize(
    ("source", "split", "expected"),
    [
        ("nowhere", "train", "probe.source='nowhere': no such"),
        ("file://nowhere", "train", "probe.source='file://nowhere'"),
        ("demo", "tset", "probe.split='tset': the demo has"),
        ("{beir}", "tset", "probe.split='tset': .*tset.tsv does not exist"),
        ("{empty}", "train", "probe.source='.*': corpus.jsonl, .* missing"),
        ("{file}", "tset", "probe.split='tset': .*choose one of train"),
        ("{file}", "dev", "probe.source='.*': none of its 1 queries falls into"),
        ("{file}", "all", "probe.source='.*': no query of the split 'all' has a relevant"),
        ("ir_datasets:beir/nfcorpuz", "", "probe.source='ir_datasets:beir/nfcorpuz': unknown id"),
        ("ir_datasets:beir/nfcorpus", "", "probe.source='ir_datasets:beir/nfcorpus': has no qrels"),
    ],
)
def test_flaws_of_a_source_name_the_field_that_it_came_from(
    source: str, split: str, expected: str, tmp_path: Path
) -> None:
    query = next(f"query {i}" for i in range(99) if split_of(f"query {i}") == "train")
    places = {
        "beir": write_beir_folder(tmp_path / "beir"),
        "empty": tmp_path,
        "file": write_jsonl(tmp_path / "groups.jsonl", [{"query": query, "pos": [], "neg": ["a"]}]),
    }
    with pytest.raises(ValueError, match=f"^{expected}"):
        load_groups(
            source.format(**places), split, DataOptions(), fields=SourceFields("probe.source", "probe.split")
        )


# --- Collections of which only some documents are read -----------------------------------------------


def _best_only(_: Collection) -> Named:
    return Named({"d0-0", "d1-1", "absent"}, {"d2-2", "gone"})


def _loaded(folder: Path, choose: Choice | None) -> Collection | str:
    try:
        return load_collection(str(folder), "train", measured=True, choose=choose)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("collides", [False, True])
def test_of_a_collection_only_what_is_needed_is_read(
    collides: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if collides:  # ids that differ may have one hash
        for module in (named_documents, beir_folder):
            monkeypatch.setattr(module, "hash", lambda _: 7, raising=False)
    folder = write_beir_folder(tmp_path / "beir")
    whole, part = _loaded(folder, None), _loaded(folder, _best_only)
    assert isinstance(whole, Collection)
    assert isinstance(part, Collection)
    assert (part.queries, part.qrels) == (whole.queries, whole.qrels)
    assert part.documents == {name: whole.documents[name] for name in ("d0-0", "d1-1")}
    judged = {document for grades in whole.qrels.values() for document in grades}
    assert part.unread == (judged | {"d2-2"}) - part.documents.keys()
    assert part.document_count == whole.document_count == 30


@pytest.mark.parametrize("collides", [False, True])
@pytest.mark.parametrize(
    ("line", "removed"),
    [
        ('{"_id": "d0-0", "text": "again"}', ""),
        ('{"_id": "d9-2", "text": "again, and needed by nobody"}', ""),
        ('{"_id": "new", "text": 3}', ""),
        ('{"_id": "", "text": "nameless"}', ""),
        ("{", ""),
        ("", "_id"),
        ("", '"d0-1"'),
    ],
)
def test_flaws_of_a_collection_are_named_however_little_of_it_is_read(
    line: str, removed: str, collides: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if collides:
        for module in (named_documents, beir_folder):
            monkeypatch.setattr(module, "hash", lambda _: 7, raising=False)
    corpus = write_beir_folder(tmp_path / "beir") / "corpus.jsonl"
    kept = [each for each in corpus.read_text().splitlines() if not removed or removed not in each]
    corpus.write_text("\n".join([*kept, line]) + "\n")
    whole, part = _loaded(tmp_path / "beir", None), _loaded(tmp_path / "beir", _best_only)
    if isinstance(whole, str):
        assert part == whole
    else:
        assert not isinstance(part, str)
        assert not whole.holds("d0-1")
        assert not part.holds("d0-1")


# --- ir_datasets -------------------------------------------------------------------------------------


@pytest.fixture
def serve_dataset(monkeypatch: pytest.MonkeyPatch) -> Any:
    def serve(dataset: Any) -> None:
        monkeypatch.setattr(irds, "find_dataset", lambda *_: dataset)

    return serve


def test_ir_datasets_collections(serve_dataset: Any) -> None:
    serve_dataset(fake_ir_dataset())
    collection = load_collection("ir_datasets:fake/train", "ignored")
    assert collection.documents["a"].full_text == "T tea"
    assert collection.queries == {"1": "what is tea"}
    assert collection.qrels == {"1": {"a": 2}}


def test_ir_datasets_judged_queries_are_read_without_documents(serve_dataset: Any) -> None:
    queries = [Query("1", "what is tea"), Query("2", "not judged")]
    dataset = fake_ir_dataset(queries=queries)
    dataset.docs_iter = None
    serve_dataset(dataset)
    assert judged_queries("ir_datasets:fake/train", "ignored", DataOptions()) == {"1": "what is tea"}


def test_ir_datasets_records_with_other_fields(serve_dataset: Any) -> None:
    class Record(SimpleNamespace):
        def default_text(self) -> str:
            return "default"

    documents = [
        Record(doc_id="a", parts=("x",)),
        Record(doc_id="b", title="T", body=(("Introduction", "sections"),)),  # as of cord19/fulltext
        Record(doc_id="c", body=b"<html>as of gov2</html>"),
        Record(doc_id="d", title=None, text="", abstract="an abstract"),
    ]
    serve_dataset(fake_ir_dataset(docs=documents, queries=[Record(query_id="1")]))
    collection = load_collection("ir_datasets:fake", "")
    texts = [document.full_text for document in collection.documents.values()]
    assert texts == ["default", "default", "default", "an abstract"]
    assert collection.queries["1"] == "default"


def test_a_document_that_was_judged_several_times_has_its_best_grade(serve_dataset: Any) -> None:
    judgements = [Qrel("1", "a", 1), Qrel("1", "a", 2), Qrel("1", "a", 0), Qrel("1", "b", -1)]
    serve_dataset(fake_ir_dataset(qrels=judgements))
    assert load_collection("ir_datasets:fake", "").qrels == {"1": {"a": 2, "b": -1}}


def test_ir_datasets_judgements_of_absent_documents_are_left_out(
    serve_dataset: Any, caplog: pytest.LogCaptureFixture
) -> None:
    serve_dataset(fake_ir_dataset(qrels=[Qrel("1", "a", 1), Qrel("1", "gone", 1), Qrel("9", "a", 1)]))
    assert load_collection("ir_datasets:fake", "").qrels == {"1": {"a": 1}}
    assert "1 judged documents are absent: 'gone'" in caplog.text
    assert "1 judged queries are absent: '9'" in caplog.text
    assert load_collection("ir_datasets:fake", "", measured=True).qrels == {"1": {"a": 1, "gone": 1}}


def test_ir_datasets_keep_what_is_needed_of_judgements_that_are_left(
    serve_dataset: Any, caplog: pytest.LogCaptureFixture
) -> None:
    qrels = [Qrel("1", "a", 1), Qrel("1", "gone", 1), Qrel("9", "a", 1)]
    docs = [Doc("a", "T", "tea"), Doc("b", "", "milk"), Doc("c", "", "hay"), Doc("b", "", "cream")]
    serve_dataset(fake_ir_dataset(docs=docs, qrels=qrels))
    seen = []

    def choose(judged: Collection) -> Named:
        seen.append(judged.qrels)
        return Named({"b"}, {"c", "x"})

    part = load_collection("ir_datasets:fake", "", measured=True, choose=choose)
    assert caplog.text.count("1 judged queries are absent: '9'") == 1
    whole = load_collection("ir_datasets:fake", "", measured=True)
    assert seen == [whole.qrels] == [part.qrels]  # a sample of queries is drawn from these
    assert part.documents == {"b": whole.documents["b"]}
    assert part.documents["b"].text == "cream"
    assert (part.unread, part.document_count) == ({"a", "c"}, whole.document_count)


def test_ir_datasets_without_judgements_or_network(serve_dataset: Any) -> None:
    serve_dataset(fake_ir_dataset(qrels=None))
    with pytest.raises(ValueError, match=r"has no qrels; name an id with .*beir/nfcorpus/"):
        load_collection("ir_datasets:beir/nfcorpus", "")


@pytest.mark.parametrize(
    ("error", "is_for_now"),
    [
        (OSError("no route"), False),
        (PermissionError(13, "Permission denied"), False),
        (ConnectionResetError("reset"), True),
        (
            RuntimeError(
                "All download sources failed", [("mirror", ValueError("hash")), ("m", TimeoutError())]
            ),
            True,
        ),
        (RuntimeError("All download sources failed", [("mirror", ValueError("hash"))]), False),
    ],
)
def test_what_ir_datasets_cannot_read_may_be_there_at_the_next_try(
    error: Exception, is_for_now: bool, serve_dataset: Any
) -> None:
    broken = fake_ir_dataset()
    broken.docs_iter = lambda: (_ for _ in ()).throw(error)
    serve_dataset(broken)
    with pytest.raises(ValueError, match=r"cannot read it \(.*\); check the network") as raised:
        load_collection("ir_datasets:fake", "")
    assert isinstance(raised.value, UnfetchedError) == is_for_now


def test_unknown_ir_datasets_id_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown id; did you mean .*beir/nfcorpus"):
        load_collection("ir_datasets:beir/nfcorpuz", "")


# --- FlagEmbedding -----------------------------------------------------------------------------------


def _embedding_records(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"query": f"query {i}", "pos": [f"yes {i}"], "neg": [f"no {i} {j}" for j in range(6)], "prompt": "p"}
        for i in range(count)
    ]


def test_embedding_file_becomes_groups(tmp_path: Path) -> None:
    record = {
        "id": 5,
        "query": "query 0",
        "pos": ["a"],
        "neg": ["b", "a"],
        "pos_scores": [2],
        "neg_scores": [0.5, 1],
    }
    path = write_jsonl(tmp_path / "train.jsonl", [record])
    (group,) = load_groups(str(path), split_of("query 0"), DataOptions())
    assert (group.query_id, group.query) == ("5", "query 0")
    assert [(c.document.text, c.grade, c.score) for c in group.candidates] == [("a", 1, 2.0), ("b", 0, 0.5)]


def test_two_scores_of_one_passage_are_refused(tmp_path: Path) -> None:
    lines = [
        {"query": "same", "pos": ["a"], "pos_scores": [2], "neg": ["b"], "neg_scores": [1]},
        {"query": "same", "pos": ["a"], "pos_scores": [2], "neg": ["b"], "neg_scores": [3]},
    ]
    path = write_jsonl(tmp_path / "train.jsonl", lines)
    with pytest.raises(ValueError, match=r"line 2: neg gives .* the score 3, and it has 1; keep one"):
        load_groups(str(path), "all", DataOptions())
    rounded = lines[0] | {"pos_scores": [2.001], "neg_scores": [1.0005]}  # as by a teacher in float16
    write_jsonl(path, [lines[0], rounded])
    (group,) = load_groups(str(path), "all", DataOptions())
    assert [candidate.score for candidate in group.candidates] == [2, 1]


def test_lines_of_one_query_are_one_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in triples: what another line of the query calls relevant is no negative, here or elsewhere."""
    lines = [
        {
            "id": "q",
            "query": "same",
            "pos": ["a"],
            "neg": ["b", "c"],
            "pos_scores": [2],
            "neg_scores": [0.5, 1],
        },
        {"query": "other", "pos": ["x"], "neg": ["a"]},
        {"id": "q", "query": "same", "pos": ["c"], "neg": ["a", "b", "d"]},
    ]
    path = write_jsonl(tmp_path / "train.jsonl", lines)
    group = load_groups(str(path), split_of("same"), DataOptions())[0]
    assert group.query_id == "q"
    assert {c.document.text: (c.grade, c.score) for c in group.candidates} == {
        "a": (1, 2.0),
        "c": (1, 1.0),
        "b": (0, 0.5),
        "d": (0, None),
    }
    assert caplog.text.count("3 lines of 2 queries") == 1
    assert (
        caplog.text.count("2 passages have several grades for a query, as pos and neg; the highest is taken")
        == 1
    )
    caplog.clear()
    judged_queries(
        str(path), split_of("same"), DataOptions()
    )  # what only looks at a file, as each start does, says nothing
    assert not caplog.messages
    write_jsonl(path, [*lines, {"id": "q", "query": "third", "pos": ["a"], "neg": []}])
    with pytest.raises(
        ValueError, match=r"line 4: the id 'q' was there before \(.*line 1\) with another query"
    ):
        load_groups(str(path), "train", DataOptions())


def test_queries_that_bring_no_negatives_get_mined_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With or without an empty `neg`; the passages that they bring stay first, with their scores."""
    lines: list[dict[str, Any]] = [
        {"query": f"query {i}", "pos": [f"yes {i}"], "pos_scores": [i]} for i in range(20)
    ]
    path = write_jsonl(tmp_path / "train.jsonl", [*lines, {"query": "own", "pos": ["a"], "neg": ["b"]}])
    options = DataOptions(negatives_per_query=3)
    groups = load_groups(str(path), "all", options)
    assert "20 queries bring no irrelevant passage; theirs are mined" in caplog.text
    passages = {f"yes {i}" for i in range(20)} | {"a", "b"}
    for i, group in enumerate(groups[:20]):
        first, *mined = group.candidates
        assert (first.document.text, first.grade, first.score) == (f"yes {i}", 1, i)
        assert [(c.grade, c.score) for c in mined] == [(0, None)] * 3
        texts = {c.document.text for c in mined}
        assert len(texts) == 3
        assert texts <= passages - {f"yes {i}"}
    assert [c.document.text for c in groups[20].candidates] == ["a", "b"]
    write_jsonl(path, [*(line | {"neg": []} for line in lines), {"query": "own", "pos": ["a"], "neg": ["b"]}])
    assert load_groups(str(path), "all", options) == groups
    # A split's negatives are its own passages: no text of the other one is seen.
    shown = {c.document.text for g in load_groups(str(path), "train", options) for c in g.candidates}
    held_out = {f"yes {i}" for i in range(20) if split_of(f"query {i}") == "dev"}
    assert held_out
    assert not shown & held_out


def test_embedding_splits_share_no_query_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    records = _embedding_records(300)
    path, reverse = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(path, records)
    write_jsonl(reverse, records[::-1])
    options = DataOptions()
    splits = {
        split: {group.query for group in load_groups(str(path), split, options)} for split in ("train", "dev")
    }
    assert not splits["train"] & splits["dev"]
    assert len(splits["train"]) + len(splits["dev"]) == 300
    assert 0.05 < len(splits["dev"]) / 300 < 0.16
    assert {group.query for group in load_groups(str(reverse), "dev", options)} == splits["dev"]
    assert {group.query for group in load_groups(str(path), "all", options)} == splits["train"] | splits[
        "dev"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"query": " "}, "line 2: query is empty"),
        ({"query": None}, "line 2: query=None is NoneType"),
        ({"pos": "text"}, "line 2: pos must be a list of strings"),
        ({"pos": ["text", " "]}, "line 2: pos holds an empty passage"),
        ({"neg": [1]}, "line 2: neg must be a list of strings"),
        ({"pos_scores": [1, 2]}, "line 2: pos_scores has 2 numbers for 1 passages"),
        ({"neg_scores": ["a"] * 6}, "line 2: neg_scores must be a list of finite numbers"),
        ({"neg_scores": [float("nan")] * 6}, "line 2: neg_scores must be a list of finite numbers"),
        ({"neg_scores": [1e39] * 6}, "line 2: neg_scores must be a list of finite numbers (float32)"),
        ({"neg_scores": [10**400] * 6}, "line 2: neg_scores must be a list of finite numbers"),
        ({"id": [1]}, "line 2: id=[1] is list"),
    ],
)
def test_flaws_of_embedding_files_name_their_line(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    records = _embedding_records()
    records[1] |= change
    path = write_jsonl(tmp_path / "train.jsonl", records)
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_groups(str(path), "train", DataOptions())


def test_embedding_files_with_nothing_to_give(tmp_path: Path, caplog) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", _embedding_records())
    with pytest.raises(ValueError, match=r"data.split='test'.*choose one of train, dev"):
        load_groups(str(path), "test", DataOptions())
    with pytest.raises(ValueError, match=r"data.relevant_grade=2.*set it to 1"):
        load_groups(str(path), "train", DataOptions(relevant_grade=2))
    with pytest.raises(ValueError, match=r"holds training groups, no collection"):
        load_collection(str(path), "train")
    write_jsonl(path, [*_embedding_records(), {"query": "x", "pos": [], "neg": ["a"]}])
    load_groups(str(path), "all", DataOptions())
    assert "1 queries without a relevant passage are left out" in caplog.text
    write_jsonl(path, [{"query": "x", "pos": [], "neg": ["a"]}])
    with pytest.raises(ValueError, match=r"has a relevant passage; add some"):
        load_groups(str(path), split_of("x"), DataOptions())
    write_jsonl(path, [{"query": "x", "neg": ["a"]}])
    with pytest.raises(ValueError, match=r"line 1: no field 'pos'"):
        load_groups(str(path), "train", DataOptions())
    path.write_text("")
    with pytest.raises(ValueError, match=r"is empty; write one JSON object on each line, with query and pos"):
        load_groups(str(path), "train", DataOptions())


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "beir")
    before = source_fingerprint(str(folder), "train")
    assert set(before) == {"corpus.jsonl", "queries.jsonl", "train.tsv"}
    _replace_line(folder / "corpus.jsonl", 1, b'{"_id": "d0-0", "text": "changed"}')
    after = source_fingerprint(str(folder), "train")
    assert [name for name in before if before[name] != after[name]] == ["corpus.jsonl"]
    assert source_fingerprint("demo", "train") != source_fingerprint("demo", "dev")


# --- BM25 and real collections -----------------------------------------------------------------------


def test_bm25_orders_ties_by_position_and_leaves_out_strangers() -> None:
    index = Bm25Index(["cats sleeping", "", "a cat sleeps", "dogs run", "cat"])
    assert [position for position, _ in index.top("cats", 10)] == [4, 0, 2]
    assert [position for position, _ in index.top("cats sleep", 2)] == [0, 2]
    assert index.top("zebra", 3) == []
    assert index.top("the", 3) == []


def test_bm25_refuses_texts_without_words() -> None:
    with pytest.raises(ValueError, match=r"none of the 2 documents holds a word"):
        Bm25Index(["", "the"])


def test_bm25_starts_no_accelerator() -> None:
    code = (
        "from prorank_jax.bm25 import Bm25Index; Bm25Index(['one two']).top('two', 1);"
        "import jax.lax; from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "split", "documents", "queries", "recall"),
    [("scifact", "dev", 5183, 159, 0.926), ("cranfield", "test", 1400, 65, 0.722)],
)
def test_real_collections(name: str, split: str, documents: int, queries: int, recall: float) -> None:
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set PRORANK_DATA to the folder that holds {name}")
    collection = load_collection(str(folder), split)
    assert len(collection.documents) == documents
    assert len(collection.qrels) == queries
    ids = list(collection.documents)
    index = Bm25Index([document.full_text for document in collection.documents.values()])
    found = []
    for query, grades in collection.qrels.items():
        relevant = {document for document, grade in grades.items() if grade > 0}
        top = {ids[position] for position, _ in index.top(collection.queries[query], 100)}
        found.append(len(relevant & top) / len(relevant))
    assert sum(found) / len(found) == pytest.approx(recall, abs=0.06)
