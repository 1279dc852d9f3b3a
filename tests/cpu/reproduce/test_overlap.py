"""Queries grouped by whether training saw their relevant documents, and the gain of each group."""

from __future__ import annotations

import pytest

from prorank_jax.evaluation.names import DatasetName
from prorank_jax.evaluation.significance import as_json, compare
from prorank_jax.reproduce.judgements import read_judgements
from prorank_jax.reproduce.overlap import group_queries, overlap_content
from prorank_jax.reproduce.rows import BASE, BOTH, STAGE2
from prorank_jax.reproduce.tables import overlap_markdown

TRAINED = {"t1": {"d1": 1, "d2": 0}, "t2": {"d3": 2, "d4": -1}}
MEASURED = {
    "a": {"d1": 1, "d9": 1},  # one of its two relevant documents was seen
    "b": {"d2": 1, "d4": 1},  # judged for a training query, but not relevant for it
    "c": {"d3": 0, "d8": 1},  # seen, but not relevant here
    "d": {"d3": 1},
    "e": {"d1": 1},  # not measured
}
FIRST = {"a": 0.5, "b": 0.5, "c": 0.25, "d": 0.0}
ROWS = {
    BASE: dict.fromkeys(FIRST, 0.0),
    STAGE2: {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.75},
    BOTH: {"a": 1.0, "b": 0.25, "c": 0.25, "d": 1.0},
}


def groups() -> dict[str, tuple[str, ...]]:
    return group_queries(FIRST, MEASURED, TRAINED)


def markdown(grouped: dict[str, tuple[str, ...]], rows: dict[str, dict[str, float]]) -> str:
    content = {"train_split": "train", "test_split": "dev"}
    return overlap_markdown(content | {"training_overlap": overlap_content(grouped, rows, FIRST)})


def test_a_query_is_seen_by_one_document_that_is_relevant_on_both_sides():
    assert groups() == {"all": ("a", "b", "c", "d"), "unseen": ("b", "c"), "seen": ("a", "d")}


def test_a_document_that_a_made_query_asked_for_was_seen():
    assert group_queries(FIRST, MEASURED, TRAINED, made={"d8"})["unseen"] == ("b",)


def test_without_training_judgements_everything_is_unseen():
    assert group_queries(FIRST, MEASURED, {})["seen"] == ()


def test_each_trained_row_is_compared_on_each_group():
    content = overlap_content(groups(), ROWS, FIRST)
    assert content["queries"] == {"all": 4, "unseen": 2, "seen": 2}
    assert [row["row"] for row in content["rows"]] == [STAGE2, BOTH]
    stage2 = content["rows"][0]
    assert stage2["all"] == as_json(compare(ROWS[STAGE2], FIRST))
    assert stage2["unseen"]["delta"] == pytest.approx(0.125)
    assert stage2["seen"]["delta"] == pytest.approx(0.625)
    assert content["rows"][1]["unseen"]["delta"] == pytest.approx(-0.125)


def test_an_empty_group_has_no_comparison():
    row = overlap_content({"all": ("a",), "unseen": (), "seen": ("a",)}, ROWS, FIRST)["rows"][0]
    assert row["unseen"] is None
    assert row["all"] == row["seen"]


def test_the_table_names_the_sizes_of_the_groups():
    text = markdown(groups(), ROWS)
    assert text.startswith("2 of the 4 measured queries of dev have a relevant document that is relevant for")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {4}
    assert lines[0][1:] == ["all 4 queries", "the 2 with unseen documents only", "the 2 others |"]
    assert [line[0] for line in lines[2:]] == ["| stage 2 only", "| both stages"]
    assert lines[2][2].startswith("+0.125 (")
    assert ", p " in lines[2][2]


@pytest.mark.parametrize(
    ("grouped", "said"),
    [
        ({"all": ("a",), "unseen": (), "seen": ("a",)}, "Each of the 1 measured queries"),
        ({"all": ("b",), "unseen": ("b",), "seen": ()}, "every gain is on unseen documents"),
    ],
    ids=["all seen", "none seen"],
)
def test_one_group_alone_is_said_in_a_sentence(grouped, said):
    text = markdown(grouped, ROWS)
    assert said in text
    assert "|" not in text


def test_no_table_before_a_row_is_trained():
    text = markdown(groups(), {BASE: ROWS[BASE]})
    assert text.startswith("2 of the 4 measured queries")
    assert "|" not in text


def test_judgements_of_a_folder_are_read_without_its_texts(tmp_path):
    (tmp_path / "qrels").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text("not read")
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    assert read_judgements(DatasetName("x:train", str(tmp_path), "train")) == {"q": {"d": 1}}
    with pytest.raises(ValueError, match=r"dataset='x:dev': .*choose one of train"):
        read_judgements(DatasetName("x:dev", str(tmp_path), "dev"))
    assert read_judgements(DatasetName("demo:dev", "demo", "dev"))["q001"]
