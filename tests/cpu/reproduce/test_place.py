"""What an ablation refuses before it works: a folder of another one, and runs that could not be trained."""

from __future__ import annotations

import json

import pytest

from prorank_jax.config import DataOptions
from prorank_jax.corpora import queries_to_train_on
from prorank_jax.query_choice import QueryChoice
from prorank_jax.reproduce import place
from prorank_jax.trec import write_run
from tests.cpu.reproduce.stand_in_launchers import StandIns, work

pytest.importorskip("ranx")


def test_a_folder_made_before_fields_of_the_data_came_goes_on_with_their_defaults(tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0", "--only", "base")
    settings = json.loads((out / place.SETTINGS_FILE).read_text())
    later = [f"probe: data.{name}" for name in ("max_queries", "negatives_run", "negatives_from")]
    (out / place.SETTINGS_FILE).write_text(json.dumps({n: v for n, v in settings.items() if n not in later}))
    with pytest.raises(ValueError, match=r"\(probe: data\.max_queries is 0 there, 3 here\)"):
        work(out, "--seeds", "0", "--only", "base", "--data.max_queries", "3")
    assert work(out, "--seeds", "0", "--only", "base")[0].ran == []
    assert json.loads((out / place.SETTINGS_FILE).read_text()) == settings


def test_negatives_of_what_one_seed_draws_are_refused_where_another_draws_more(
    tmp_path,
):
    file, run = tmp_path / "dense.trec", StandIns()
    draws = [
        queries_to_train_on("demo", "train", DataOptions(), seed, QueryChoice(most=5)) for seed in (0, 1)
    ]
    assert draws[0] != draws[1]
    given = ["--data.max_queries", "5", "--stage2.data.negatives_run", str(file)]
    write_run(file, {query: ["d"] for query in draws[0]}, "dense")
    for seeds in (["0", "1"], ["1", "0"]):
        with pytest.raises(ValueError, match=r"negatives_run='.*': lacks . of the 5 queries to train on"):
            work(tmp_path / "out", *given, "--seeds", *seeds, run=run)
    assert run.ran == []
    write_run(file, {query: ["d"] for query in draws[0] | draws[1]}, "dense")
    assert work(tmp_path / "out", *given, "--only", "stage2", "--seeds", "0", "1")[0].ran


def test_seeds_of_other_negatives_in_the_same_file_are_not_pooled(tmp_path):
    file, out = tmp_path / "dense.trec", tmp_path / "out"
    queries = queries_to_train_on("demo", "train", DataOptions(), 0, QueryChoice())
    given = ["--only", "stage2", "--stage2.data.negatives_run", str(file), "--seeds", "0"]
    write_run(file, {query: ["d"] for query in queries}, "dense")
    work(out, *given)
    settings = json.loads((out / place.SETTINGS_FILE).read_text())
    write_run(file, {query: ["e", "d"] for query in queries}, "dense")
    with pytest.raises(ValueError, match=r"content of stage2\.data\.negatives_run is '[0-9a-f]{64}' there"):
        work(out, *given, "1")
    kept = {name: value for name, value in settings.items() if not name.startswith("content of")}
    assert len(kept) == len(settings) - 1
    (out / place.SETTINGS_FILE).write_text(json.dumps(kept))  # as an earlier version left it
    assert work(out, *given)[0].ran == []


def test_a_teacher_of_what_one_seed_draws_is_refused_where_another_draws_none_of_it(tmp_path):
    file, run = tmp_path / "scores.tsv", StandIns()
    draws = [queries_to_train_on("demo", "train", DataOptions(), n, QueryChoice(most=1)) for n in (0, 1)]
    assert draws[0] != draws[1]
    file.write_text("".join(f"{query}\td\t0.5\n" for query in draws[0]))
    given = ["--data.max_queries", "1", "--stage2.data.teacher_scores", str(file)]
    losses = ["--stage2.ranking.losses", "margin_mse=1"]
    with pytest.raises(
        ValueError, match=r"teacher_scores: none of their 1 queries .* among the 1 to train on"
    ):
        work(tmp_path / "out", *given, *losses, "--seeds", "0", "1", run=run)
    assert run.ran == []
