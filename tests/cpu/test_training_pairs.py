"""launch/training_pairs.py: a teacher scores what a run will train on, and the run finds those scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prorank_jax import training_pairs
from prorank_jax.config import DataOptions, RankingOptions, RunConfig
from prorank_jax.corpora import check_teacher, load_groups
from prorank_jax.run_examples import check_sources, training_groups
from prorank_jax.training_pairs import write_training_pairs
from prorank_jax.types import RankingGroup
from tests.cpu.data_fixtures import WORDS, ask_otherwise, write_beir_folder, write_jsonl
from tests.cpu.evaluation.collections import hash_score
from tests.cpu.tiny_run import load_launcher

SENTENCE = "Nobody knows why the {0} is where it is today. The {0} of the other one was seen by many people."


def folder_source(folder: Path) -> str:
    write_beir_folder(folder / "beir")
    ask_otherwise(folder / "beir", "dev", "where")
    with (folder / "beir" / "corpus.jsonl").open("a") as corpus:
        for word in WORDS:
            text = SENTENCE.format(word)
            corpus.write(json.dumps({"_id": f"long-{word}", "title": f"Of {word}", "text": text}) + "\n")
        corpus.write(json.dumps({"_id": "blank", "title": "", "text": ""}) + "\n")
    return str(folder / "beir")


def file_source(folder: Path) -> str:
    lines = [
        {"query": f"tell me of {word} {n}", "pos": [f"{SENTENCE.format(word)} {n} times it was {word}."]}
        for word in WORDS
        for n in range(3)
    ]
    return str(write_jsonl(folder / "groups.jsonl", lines))


def config_of(source: str, **data: Any) -> RunConfig:
    options: dict[str, Any] = {"pseudo_queries": 4, "negative_depth": 20, "max_length": 96}
    return RunConfig(
        stage=2,
        data=DataOptions(source=source, **(options | data)),
        ranking=RankingOptions(losses="listwise=1, listwise_teacher=1"),
    )


def score_all(pairs: Path, scored: Path) -> dict[tuple[str, str], float]:
    records = [json.loads(line) for line in pairs.read_text().splitlines()]
    scores = {(one["query"], one["passage"]): hash_score((one["query"], one["passage"])) for one in records}
    write_jsonl(scored, [one | {"score": scores[one["query"], one["passage"]]} for one in records])
    return scores


def without_scores(groups: list[RankingGroup]) -> list[Any]:
    return [(one.query_id, one.query, [(c.document, c.grade) for c in one.candidates]) for one in groups]


@pytest.mark.parametrize("make_source", [folder_source, file_source])
def test_every_candidate_gets_the_score_that_its_texts_were_given(make_source, tmp_path):
    source, scored = make_source(tmp_path), tmp_path / "scored.jsonl"
    config = config_of(source)
    count = write_training_pairs(config, tmp_path / "pairs.jsonl")
    scores = score_all(tmp_path / "pairs.jsonl", scored)
    taught = config_of(source, teacher_scores=str(scored))
    check_sources(taught)
    groups = load_groups(source, "train", taught.data)
    assert sum(one.query_id.startswith("pseudo:") for one in groups) == 4
    candidates = [(one.query, c) for one in groups for c in one.candidates if c.document.full_text]
    assert len(scores) == count
    assert {(query, one.document.full_text) for query, one in candidates} == set(scores)
    for query, candidate in candidates:
        assert candidate.score == scores[query, candidate.document.full_text]
    assert without_scores(groups) == without_scores(training_groups(taught))


def test_scores_of_another_seeds_queries_are_not_taken_for_them(tmp_path):
    """A made query's id names the document that it was made from, of which another seed takes another one."""
    source = folder_source(tmp_path)
    write_training_pairs(config_of(source, pseudo_queries=9), tmp_path / "pairs.jsonl")
    scores = score_all(tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl")
    data = config_of(source, pseudo_queries=9, teacher_scores=str(tmp_path / "scored.jsonl")).data
    groups = load_groups(source, "train", data, seed=1)
    queries = {query for query, _ in scores}
    others = [one for one in groups if one.query not in queries]
    assert others
    assert all(candidate.score is None for one in others for candidate in one.candidates)


def test_ids_cannot_name_the_passages_of_a_file(tmp_path):
    source = file_source(tmp_path)
    (tmp_path / "scores.tsv").write_text("1\td1\t0.5\n")
    data = config_of(source, teacher_scores=str(tmp_path / "scores.tsv")).data
    with pytest.raises(ValueError, match=r"groups\.jsonl have no ids of their own; .*training_pairs\.py"):
        check_teacher(source, data)


def test_pairs_without_ids_name_no_more_candidates(tmp_path):
    source = folder_source(tmp_path)
    write_jsonl(tmp_path / "scored.jsonl", [{"query": "a", "passage": "b", "score": 0.5}])
    data = config_of(source, teacher_scores=str(tmp_path / "scored.jsonl"), teacher_depth=3).data
    with pytest.raises(ValueError, match=r"data\.teacher_depth=3: the pairs of .* have no ids"):
        check_teacher(source, data)


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("scored for hours")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: is there; name a new file"):
        write_training_pairs(config_of("demo"), tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_text() == "scored for hours"


def test_a_text_under_several_ids_is_one_pair(tmp_path):
    source = folder_source(tmp_path)
    with (tmp_path / "beir" / "corpus.jsonl").open("a") as corpus:
        for n in range(30):
            corpus.write(json.dumps({"_id": f"copy{n}", "text": "what is it, they ask"}) + "\n")
    count = write_training_pairs(config_of(source, negatives_per_query=30), tmp_path / "pairs.jsonl")
    records = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    pairs = [(one["query"], one["passage"]) for one in records]
    assert len(pairs) == len(set(pairs)) == count
    assert sum(passage.startswith("what is it") for _, passage in pairs) > 5


def test_pairs_of_another_draw_are_refused_before_documents_are_read(tmp_path):
    source, scored = folder_source(tmp_path), tmp_path / "scored.jsonl"
    data = {"pseudo_queries": 0, "max_queries": 2, "teacher_scores": str(scored)}
    drawn = {one.query for one in training_groups(config_of(source, **data))}
    write_jsonl(scored, [{"query": f"what is {w}0", "passage": "x", "score": 0.5} for w in WORDS])
    check_sources(config_of(source, **data))
    others = [f"what is {w}0" for w in WORDS if f"what is {w}0" not in drawn]
    assert len(others) == len(WORDS) - 2
    write_jsonl(scored, [{"query": query, "passage": "x", "score": 0.5} for query in others])
    with pytest.raises(ValueError, match="none of their 8 pairs has the texts of a query to train on"):
        check_sources(config_of(source, **data))


def test_stage_1_has_no_teacher(tmp_path):
    with pytest.raises(ValueError, match="stage=1: only stage 2 learns from a teacher"):
        write_training_pairs(RunConfig(), tmp_path / "pairs.jsonl")


def test_a_flaw_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source"):
        write_training_pairs(config_of(str(tmp_path / "nothing")), tmp_path / "pairs.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_command_reads_the_config_of_stage_2(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(training_pairs, "write_training_pairs", lambda *given: asked.append(given) or 3)
    arguments = ["--config", "configs/cpu.yaml", f"--pairs={tmp_path}/p.jsonl", "--train.seed", "7"]
    assert load_launcher("training_pairs").main(arguments) == 0
    ((config, file),) = asked
    assert (config.stage, config.train.seed, config.data.pseudo_queries) == (2, 7, 950)
    assert file == tmp_path / "p.jsonl"
    assert "3 pairs; with a score on each line" in capsys.readouterr().out
    assert load_launcher("training_pairs").main([]) == 2
    assert "no --pairs; write --pairs FILE.jsonl" in capsys.readouterr().err
    assert load_launcher("training_pairs").main(["--pairs=gs://bucket/p.jsonl"]) == 2
    assert "is a URL; name a file on this machine" in capsys.readouterr().err
