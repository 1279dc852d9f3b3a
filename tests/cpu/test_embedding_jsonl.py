"""A file of labelled pairs says what the same judgements say in other formats; two meanings are refused."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax import corpora, embedding_jsonl, examples
from prorank_jax.config import DataOptions, RunConfig
from prorank_jax.corpora import load_groups
from prorank_jax.data import open_dataset
from prorank_jax.embedding_jsonl import queries_outside, read_embedding_groups, split_of
from prorank_jax.examples import build_examples
from prorank_jax.pair_line import PASSAGES, QUERIES
from prorank_jax.query_choice import QueryChoice
from prorank_jax.query_texts import plain_texts
from prorank_jax.run_examples import check_sources
from prorank_jax.source_names import TRAINED_ON
from tests.cpu.data_fixtures import WordRenderer, write_beir_folder, write_jsonl

Pairs = list[tuple[str, str, int, float]]
SCALE = 100


@st.composite
def judged_pairs(draw: st.DrawFn) -> Pairs:
    """(query, passage, grade, score) of each, the queries in turn as they come; no pair twice."""
    chosen = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=20, unique=True)
    )
    return [
        (
            f"q {query}",
            f"passage {passage}",
            draw(st.integers(0, 3)),
            draw(st.integers(-SCALE, SCALE)) / SCALE,
        )
        for query, passage in chosen
    ]


def _lines_of_pairs(pairs: Pairs, seed: int, with_label: bool, with_score: bool) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"id": query, rng.choice(QUERIES): query, rng.choice(PASSAGES): passage}
        | ({"label": grade} if with_label else {})
        | ({"score": score} if with_score else {})
        for query, passage, grade, score in pairs
    ]


def _as_embedding(pairs: Pairs, is_relevant: dict[tuple[str, str], bool]) -> list[dict[str, Any]]:
    """The same in FlagEmbedding's format, with scores."""
    lines: dict[str, dict[str, Any]] = {}
    for query, passage, _, score in pairs:
        line = lines.setdefault(
            query, {"id": query, "query": query, "pos": [], "neg": [], "pos_scores": [], "neg_scores": []}
        )
        side = "pos" if is_relevant[query, passage] else "neg"
        line[side].append(passage)
        line[f"{side}_scores"].append(score)
    return list(lines.values())


@settings(max_examples=40, deadline=None)
@given(pairs=judged_pairs(), seed=st.integers(0, 99), with_label=st.booleans())
def test_pairs_are_the_groups_of_the_other_format(
    pairs: Pairs, seed: int, with_label: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Labels 0 and 1 beside scores, or scores alone and from which one on a passage is relevant."""
    folder, threshold = tmp_path_factory.mktemp("pairs"), 0.25
    pairs = [(query, passage, min(grade, 1), score) for query, passage, grade, score in pairs]
    is_relevant = {(q, p): grade == 1 if with_label else score >= threshold for q, p, grade, score in pairs}
    mine = write_jsonl(folder / "pairs.jsonl", _lines_of_pairs(pairs, seed, with_label, with_score=True))
    theirs = write_jsonl(folder / "lists.jsonl", _as_embedding(pairs, is_relevant))
    options = DataOptions(
        source=str(mine), negatives_per_query=2, relevant_score=None if with_label else threshold
    )
    groups = read_embedding_groups(mine, "all", options, seed)
    assert groups == read_embedding_groups(theirs, "all", DataOptions(), seed)
    assert [group.query for group in groups] == list(dict.fromkeys(query for query, *_ in pairs))
    if any(is_relevant.values()):  # with the same mined negatives
        assert load_groups(str(mine), "all", options, seed) == load_groups(str(theirs), "all", options, seed)


@given(pairs=judged_pairs(), relevant_grade=st.integers(1, 3), seed=st.integers(0, 99))
def test_integers_are_grades(
    pairs: Pairs, relevant_grade: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The best of a query come first, each grade in the file's order, and the label follows the config."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_jsonl(file, _lines_of_pairs(pairs, seed, with_label=True, with_score=False))
    options = DataOptions(relevant_grade=relevant_grade)
    groups = read_embedding_groups(file, "all", options, seed)
    found = {(g.query, c.document.text): (c.grade, c.score) for g in groups for c in g.candidates}
    assert found == {(query, passage): (grade, None) for query, passage, grade, _ in pairs}
    for group in groups:
        grades = {passage: grade for query, passage, grade, _ in pairs if query == group.query}
        wanted = sorted((p for p in grades if grades[p] >= relevant_grade), key=lambda p: -grades[p])
        assert [candidate.document.text for candidate in group.candidates][: len(wanted)] == wanted
    examples = build_examples(groups, WordRenderer(), options, every_candidate=True)
    assert all(example.label == (example.grade >= relevant_grade) for example in examples)


def test_what_a_higher_grade_makes_irrelevant_is_shuffled_and_no_answer(tmp_path: Path) -> None:
    """A cut of the list takes from all of its irrelevant passages; queries with no others are left out."""
    graded = [(f"passage {n}", 2 if n < 2 else int(n < 20)) for n in range(40)]
    lines = [{"query": "q", "passage": passage, "label": grade} for passage, grade in graded]
    lines += [{"query": "r", "passage": "passage 0", "label": 1}, {"query": "s", "passage": "x", "label": 2}]
    file = write_jsonl(tmp_path / "pairs.jsonl", lines)
    options = DataOptions(relevant_grade=2)
    first, last = load_groups(str(file), "all", options)
    assert (first.query, last.query) == ("q", "s")
    grades = [candidate.grade for candidate in first.candidates]
    assert grades[:2] == [2, 2]
    assert set(grades[2:20]) == {0, 1}
    assert [candidate.grade for candidate in last.candidates] == [2, 0, 0, 0, 0]  # with mined ones


@given(pairs=judged_pairs(), relevant_grade=st.integers(1, 3), threshold=st.integers(-SCALE, SCALE))
def test_a_score_is_relevant_from_the_one_that_is_named_on(
    pairs: Pairs, relevant_grade: int, threshold: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exactly from there on, also where a higher grade is needed to be relevant."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_jsonl(file, _lines_of_pairs(pairs, 0, with_label=False, with_score=True))
    options = DataOptions(source="x.jsonl", relevant_grade=relevant_grade, relevant_score=threshold / SCALE)
    groups = read_embedding_groups(file, "all", options)
    examples = build_examples(groups, WordRenderer(), options, every_candidate=True)
    texts = {c.document.id: c.document.text for g in groups for c in g.candidates}
    found = {(e.query_id, texts[e.document_id]): (e.label, e.grade, e.score) for e in examples}
    wanted = {}
    for query, passage, _, score in pairs:
        label = int(score >= threshold / SCALE)
        wanted[query, passage] = (label, label * relevant_grade, score)
    assert found == wanted


def test_queries_without_a_relevant_pair_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"query": f"q {n}", "passage": f"passage {n}", "score": n / 10} for n in range(10)]
    file = str(write_jsonl(tmp_path / "pairs.jsonl", lines))
    options = DataOptions(source=file, relevant_score=0.7)
    groups = load_groups(file, "all", options)
    assert [group.query for group in groups] == ["q 7", "q 8", "q 9"]
    assert "7 queries without a relevant passage are left out" in caplog.text
    assert "3 queries bring no irrelevant passage; theirs are mined" in caplog.text
    few = load_groups(file, "all", options, choice=QueryChoice(plain_texts(["Q 8"]), most=1))
    assert len(few) == 1
    assert few[0].query in ("q 7", "q 9")
    with pytest.raises(
        ValueError, match=r"has a relevant passage; .* for pairs lower .*data\.relevant_score$"
    ):
        load_groups(file, "all", DataOptions(source=file, relevant_score=0.95))


def test_where_it_is_said_which_scores_are_relevant_a_score_alone_is_no_grade(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ratings of 0 to 10, which nobody writes with a decimal point."""
    lines = [PAIR | {"passage": f"passage {rating}", "score": rating} for rating in (7, 1, 10, 5)]
    file = write_jsonl(tmp_path / "pairs.jsonl", lines)
    (group,) = read_embedding_groups(
        file, "all", DataOptions(source=str(file), relevant_score=5.0), tell=True
    )
    found = {c.document.text: (c.grade, c.score) for c in group.candidates}
    expected = {7: (1, 7.0), 1: (0, 1.0), 10: (1, 10.0), 5: (1, 5.0)}
    assert found == {f"passage {rating}": value for rating, value in expected.items()}
    assert "relevant_score" not in caplog.text
    (graded,) = read_embedding_groups(file, "all", DataOptions(source=str(file), relevant_grade=5), tell=True)
    assert sorted(c.grade for c in graded.candidates) == [1, 5, 7, 10]


def test_examples_of_files_whose_labels_were_once_passed_over_are_made_anew(tmp_path: Path) -> None:
    """Those of other files keep their name: runs on them go on."""
    labelled = [{"query": "q", "positive": f"p {label}", "label": label} for label in (1, 0)]
    plain = [{"query": "q", "positive": "p", "negative": "n"}]
    contents = []
    for name, lines in (("labelled", labelled), ("plain", plain)):
        file = str(write_jsonl(tmp_path / f"{name}.jsonl", lines))
        contents.append(examples._pairs_content(file, DataOptions(source=file), TRAINED_ON))
    assert contents == [{"labels": "read"}, {}]


def test_pairs_are_split_by_their_query(tmp_path: Path) -> None:
    lines = [{"query": f"q {n % 60}", "passage": f"passage {n}", "label": n % 2} for n in range(180)]
    file = write_jsonl(tmp_path / "pairs.jsonl", lines)
    options = DataOptions()
    splits = {
        split: {group.query: group for group in read_embedding_groups(file, split, options)}
        for split in ("train", "dev", "all")
    }
    assert splits["train"] | splits["dev"] == splits["all"]
    assert all(split_of(query) == split for split in ("train", "dev") for query in splits[split])
    assert all(len(group.candidates) == 3 for group in splits["all"].values())
    assert queries_outside(file, "train", options) == (len(splits["dev"]), 60)


PAIR = {"query": "q", "passage": "passage"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [{"score": 0.83}],
            "line 1: score=0.83 is a score, which does not say what is relevant; set data.relevant_score",
        ),
        (
            [{"label": 0}, {"passage": "r", "label": 0.5}],
            "line 2: label=0.5 is a score, and label=0 ({file}, line 1) a grade; write all of them with",
        ),
        (
            [{"label": 1.0}],
            "line 1: label=1.0 is a score, which does not say what is relevant; set data.relevant_score "
            "(from which score on a passage is), or write it as an integer if it is a grade",
        ),
        (
            [{"label": 1, "score": 0.9}, {"passage": "r", "label": None, "score": 0.2}],
            "line 2: score=0.2 is a score, and label=1 ({file}, line 1) a grade; give every pair a label, or",
        ),
        (
            [{"label": 1}, {"passage": None, "positive": "r", "label": None}],
            "line 2: has no label, and label=1 ({file}, line 1) is one; give each pair a label, or leave",
        ),
        (
            [{"passage": None, "positive": "r", "label": ""}, {"label": 1}],
            "line 1: has no label, and label=1 ({file}, line 2) is one",
        ),
        (
            [{"label": 1}, {"label": 1}, {"label": 0}],
            "line 3: label=0 for a passage that has 1 for this query; keep one",
        ),
        (
            [{"label": 1, "score": 0.5}, {"label": 1, "score": 0.25}],
            "line 2: label=1 gives a passage of this query the score 0.25, and it has 0.5; keep one",
        ),
        (
            [{"id": "x", "label": 1}, {"id": "x", "query": "r", "label": 1}],
            "line 2: the id 'x' was there before",
        ),
    ],
)
def test_what_could_mean_two_things_is_refused(
    lines: list[dict[str, Any]], expected: str, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "pairs.jsonl", [PAIR | line for line in lines])
    with pytest.raises(ValueError, match="^" + re.escape(f"{file}, " + expected.format(file=file))):
        load_groups(str(file), "all", DataOptions())


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [{"label": 0.5}, {"label": 1}],
            "line 2: label=1 is a grade, and label=0.5 ({file}, line 1) a score; write all of them with",
        ),
        # On both sides of what makes a passage relevant.
        (
            [{"score": 0.5}, {"score": -0.5}],
            "line 2: score=-0.5 gives a passage of this query the score -0.5, and it has 0.5; keep one",
        ),
    ],
)
def test_what_could_mean_two_things_is_refused_among_scores(
    lines: list[dict[str, Any]], expected: str, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "pairs.jsonl", [PAIR | line for line in lines])
    options = DataOptions(source=str(file), relevant_score=0.25)
    with pytest.raises(ValueError, match="^" + re.escape(f"{file}, " + expected.format(file=file))):
        load_groups(str(file), "all", options)


def test_a_pair_that_comes_again_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rounded, as by a teacher in float16, also across what makes it relevant; or without its score."""
    scored = [PAIR | {"score": score} for score in (0.5001, 0.4999)]
    file = write_jsonl(tmp_path / "pairs.jsonl", scored)
    options = DataOptions(source=str(file), relevant_score=0.5)
    (group,) = read_embedding_groups(file, "all", options, tell=True)
    assert [(c.grade, c.score) for c in group.candidates] == [(1, 0.5001)]
    assert not caplog.messages
    write_jsonl(file, [PAIR | {"label": 2}, PAIR | {"label": 2, "score": 7.5}, PAIR | {"label": 2}])
    (group,) = read_embedding_groups(file, "all", DataOptions())
    assert [(c.grade, c.score) for c in group.candidates] == [(2, 7.5)]


def test_a_threshold_that_no_line_needs_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = DataOptions(source="x.jsonl", relevant_score=0.5)
    for line in (PAIR | {"label": 1, "score": 0.2}, {"query": "q", "pos": ["passage"], "pos_scores": [0.2]}):
        file = write_jsonl(tmp_path / "pairs.jsonl", [line, line | {"query": "r"}])
        caplog.clear()
        load_groups(str(file), "all", options)
        assert caplog.text.count("data.relevant_score is not read: no line has a score alone") == 1
    write_jsonl(file, [PAIR | {"score": 0.9}])
    caplog.clear()
    load_groups(str(file), "all", options)
    assert "is not read" not in caplog.text


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("is_probe", [False, True])
def test_scores_without_a_threshold_are_refused_before_documents_are_read(
    stage: int, is_probe: bool, tmp_path: Path
) -> None:
    lines = [
        {"query": f"q {n}", "passage": f"passage {n} {k}", "score": k / 2} for n in range(60) for k in (0, 1)
    ]
    file = str(write_jsonl(tmp_path / "pairs.jsonl", lines))
    if is_probe:
        folder = write_beir_folder(tmp_path / "beir")
        (folder / "corpus.jsonl").write_text("no document is read")
        named = {"source": str(folder), "probe_source": file}
    else:
        named = {"source": file}
    with pytest.raises(ValueError, match=r"score=0\.0 is a score, .*; set data\.relevant_score"):
        check_sources(RunConfig(stage=stage, data=DataOptions(**named)))
    check_sources(RunConfig(stage=stage, data=DataOptions(**named, relevant_score=0.5)))


def test_a_file_of_pairs_is_read_as_often_as_one_of_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, *rest: Any) -> Any:
        read.append(path)
        return _read(path, *rest)

    _read = embedding_jsonl.read_queries_of_file
    monkeypatch.setattr(embedding_jsonl, "read_queries_of_file", counted)
    pairs = [
        {"query": f"q {n}", "passage": f"passage {n} {k}", "score": k / 2} for n in range(60) for k in (0, 1)
    ]
    lists = [
        {
            "query": f"q {n}",
            "pos": [f"passage {n} 1"],
            "neg": [f"passage {n} 0"],
            "pos_scores": [0.5],
            "neg_scores": [0],
        }
        for n in range(60)
    ]
    for name, lines in (("pairs", pairs), ("lists", lists)):
        file = str(write_jsonl(tmp_path / f"{name}.jsonl", lines))
        data = DataOptions(source=file, relevant_score=0.5)
        check_sources(RunConfig(stage=2, data=data))
        open_dataset(file, "train", data, WordRenderer(), tmp_path / name, 0, every_candidate=True)
    names = [path.stem for path in read]
    assert names.count("pairs") == names.count("lists") > 0


def test_the_threshold_names_the_examples_of_a_file_alone(tmp_path: Path) -> None:
    lines = [
        {"query": f"q {n}", "passage": f"passage {n} {k}", "score": k / 2}
        for n in range(9)
        for k in (0, 1, 2)
    ]
    file, folder = (
        str(write_jsonl(tmp_path / "pairs.jsonl", lines)),
        str(write_beir_folder(tmp_path / "beir")),
    )

    def opened(source: str, split: str, relevant_score: float) -> Any:
        options = DataOptions(source=file, max_length=96, relevant_score=relevant_score)
        return open_dataset(source, split, options, WordRenderer(), tmp_path / "cache", 0, True)

    low, high = opened(file, "all", 0.5), opened(file, "all", 1.0)
    assert low.folder != high.folder
    np.testing.assert_array_equal(np.sort(low.scores), np.sort(high.scores))
    assert (low.labels.sum(), high.labels.sum()) == (18, 9)
    assert opened(folder, "train", 0.5).folder == opened(folder, "train", 1.0).folder


def test_options_that_pairs_cannot_follow_name_what_to_write(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "pairs.jsonl", [PAIR | {"label": 1}]))
    (tmp_path / "scores.tsv").write_text("1\td1\t0.5\n")
    options = DataOptions(source=file, teacher_scores=str(tmp_path / "scores.tsv"))
    with pytest.raises(ValueError, match=r"no ids of their own; write the scores .*beside a pair's label\)"):
        corpora.check_teacher(file, options)
