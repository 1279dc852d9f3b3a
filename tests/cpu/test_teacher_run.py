"""An evaluation of the training split becomes its teacher, and one of other texts does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.config import DataOptions
from prorank_jax.corpora import check_teacher, load_groups
from prorank_jax.evaluation.names import parse_dataset
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation.output import RERANKED_RUN
from prorank_jax.evaluation.score_log import SCORES_FILE, QueryScores, ScoreLog
from prorank_jax.evaluation.scoring import rerank, score_candidates
from prorank_jax.evaluation_scores import WHOLE
from prorank_jax.evaluation_task import prepare_task
from prorank_jax.teacher_run import read_teacher
from prorank_jax.trec import write_run
from tests.cpu.data_fixtures import write_beir_folder
from tests.cpu.evaluation.collections import CountingScorer, chunk_by_chunk, hash_score


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_beir_folder(tmp_path / "collection", queries=6)


@pytest.fixture
def evaluated(collection: Path, tmp_path: Path) -> Path:
    """The folder of a model's evaluation on the training split."""
    name = f"{collection}:train"
    task = prepare_task(parse_dataset(name), 0, EvaluationOptions("model", (name,)))
    log = ScoreLog(tmp_path / SCORES_FILE, task.header({"top_k": 5}))
    score, first = chunk_by_chunk(CountingScorer()), task.first_stage
    scored = score_candidates(score, task.collection, first.candidates(5), log=log)
    rankings = {query: rerank(ranking, scored.get(query)) for query, ranking in first.rankings.items()}
    write_run(tmp_path / RERANKED_RUN, rankings, "reranked")
    return tmp_path


def options(collection: Path, scores: Path) -> DataOptions:
    return DataOptions(source=str(collection), teacher_scores=str(scores), teacher_depth=2)


def test_the_scores_of_an_evaluation_are_the_teachers(collection, evaluated):
    data = options(collection, evaluated / SCORES_FILE)
    check_teacher(data.source, data)
    groups = load_groups(data.source, "train", data)
    scored = [(group, c) for group in groups for c in group.candidates if c.score is not None]
    assert len(scored) >= 12
    for group, candidate in scored:
        assert candidate.score == hash_score((group.query, candidate.document.full_text))


def test_its_run_of_ranks_is_refused(collection, evaluated):
    data = options(collection, evaluated / RERANKED_RUN)
    for refuse in (lambda: check_teacher(data.source, data), lambda: load_groups(data.source, "train", data)):
        with pytest.raises(ValueError, match=r"its scores are ranks.*name the scores\.jsonl"):
            refuse()


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_an_evaluation_of_other_texts_is_refused(name, collection, evaluated):
    data, file = options(collection, evaluated / SCORES_FILE), collection / name
    file.write_text(file.read_text().replace("apple0", "another apple0"))
    told = rf"data\.teacher_scores=.*scores of '.*:train', of which {name} had other content than in data\."
    for refuse in (lambda: check_teacher(data.source, data), lambda: load_groups(data.source, "train", data)):
        with pytest.raises(ValueError, match=told):
            refuse()


def test_other_judgements_of_the_same_texts_change_no_score(collection, evaluated, caplog):
    judgements = collection / "qrels" / "train.tsv"
    judgements.write_text(judgements.read_text().replace("q1\td1-0\t2", "q1\td1-0\t1"))
    data = options(collection, evaluated / SCORES_FILE)
    check_teacher(data.source, data)
    assert load_groups(data.source, "train", data)
    assert "nothing tells" not in caplog.text


def test_scores_of_a_collection_that_cannot_be_compared_are_told_of(collection, tmp_path, caplog):
    file = tmp_path / SCORES_FILE
    known = {"ir_datasets:beir/x/train": "0.5.11"}
    log = ScoreLog(file, {"dataset": "beir/x/train", "dataset_fingerprint": known, WHOLE: 1})
    log.begin([])
    log.add({"q1": QueryScores(("d1-0", "d1-1"), (2.5, 0.25), 0.1)})
    data = options(collection, file)
    check_teacher(data.source, data)
    assert (
        "scores of 'beir/x/train', and nothing tells whether those are the texts of data.source"
        in caplog.text
    )


def test_another_version_of_the_library_that_reads_the_texts_is_no_other_text(tmp_path, caplog):
    file, name = tmp_path / SCORES_FILE, "ir_datasets:beir/x/train"
    log = ScoreLog(file, {"dataset": "beir/x/train", "dataset_fingerprint": {name: "0.5.10"}})
    log.begin([])
    log.add({"q1": QueryScores(("d1", "d2"), (2.5, 0.25), 0.1)})
    data = DataOptions(source=name, teacher_scores=str(file))
    assert read_teacher(data, lambda: {name: "0.5.11"}) == {"q1": {"d1": 2.5, "d2": 0.25}}
    assert caplog.text == ""


def test_what_says_nothing_of_its_texts_asks_for_none(tmp_path):
    (tmp_path / "scores.tsv").write_text("q1\td1\t2.5\n")

    def content() -> dict[str, str]:
        raise AssertionError("a collection may take long to read")

    data = DataOptions(teacher_scores=str(tmp_path / "scores.tsv"))
    assert read_teacher(data, content) == {"q1": {"d1": 2.5}}
    assert read_teacher(DataOptions(), content) is None


def test_judgements_in_common_do_not_tell_that_the_texts_are_the_same(tmp_path, caplog):
    file = tmp_path / SCORES_FILE
    log = ScoreLog(file, {"dataset": "beir:train", "dataset_fingerprint": {"texts": "1", "train.tsv": "2"}})
    log.begin([])
    log.add({"q1": QueryScores(("d1", "d2"), (2.5, 0.25), 0.1)})
    data = DataOptions(source="beir", teacher_scores=str(file))
    read_teacher(data, lambda: {"corpus.jsonl": "3", "train.tsv": "2"})
    assert "nothing tells whether those are the texts" in caplog.text
