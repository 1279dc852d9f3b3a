"""The table of unseen documents: of what the runs were shown, or a sentence where nobody knows."""

from __future__ import annotations

import json

import pytest

from prorank_jax.judgements import judgements_of
from prorank_jax.reproduce import shown
from prorank_jax.reproduce.rows import BASE, BOTH, STAGE1, STAGE2
from tests.cpu.reproduce.stand_in_launchers import work

pytest.importorskip("ranx")


def test_a_finished_folder_gets_the_table_of_unseen_documents(tmp_path):
    makes_none = ["--data.pseudo_queries", "0", "--seeds", "0"]
    _, content, _ = work(tmp_path / "out", *makes_none)
    written = content.pop("training_overlap")
    assert written["queries"]["all"] == 3
    assert [row["row"] for row in written["rows"]] == [STAGE1, STAGE2, BOTH]
    (tmp_path / "out" / "ablation.json").write_text(json.dumps(content))  # as an earlier version left it
    (tmp_path / "out" / "ablation.md").write_text("")
    run, again, _ = work(tmp_path / "out", *makes_none)
    assert run.ran == []
    assert again["training_overlap"] == written
    assert "measured queries of dev" in (tmp_path / "out" / "ablation.md").read_text()


def test_documents_that_made_queries_ask_for_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(shown, "documents_of_made_queries", lambda _, kept: {kept.parent.parent.name})
    given, original = [], shown.group_queries

    def grouped(*parts):
        given.append(parts[3])
        return original(*parts)

    monkeypatch.setattr(shown, "group_queries", grouped)
    makes = ["--data.pseudo_queries", "8", "--seeds", "0"]
    work(tmp_path / "out", *makes)
    assert given[-1] == {STAGE1, STAGE2, BOTH}
    work(tmp_path / "alone", *makes, "--only", "both")
    assert given[-1] == {STAGE1, BOTH}
    work(tmp_path / "none made", "--data.pseudo_queries", "0", "--seeds", "0")
    assert given[-1] == set()


def test_a_table_that_cannot_tell_what_was_seen_says_so(tmp_path):
    """A run's examples may be deleted at will: without them no document would seem to be seen."""
    makes = ["--data.pseudo_queries", "8", "--seeds", "0", "--only", BASE, STAGE2]
    _, content, _ = work(tmp_path / "out", *makes)
    folder = tmp_path / "out" / STAGE2 / "seed0"
    assert "training_overlap" not in content
    assert content["training_overlap_unknown"].startswith(f"{folder / 'run' / 'data'}, which tells")
    assert "training did not show is not known: " in (tmp_path / "out" / "ablation.md").read_text()
    (folder / "made_queries.json").write_text("[]")
    shown.documents_of_made_queries.cache_clear()
    _, content, _ = work(tmp_path / "out", *makes)
    assert "training_overlap_unknown" not in content
    assert content["training_overlap"]["queries"]["all"] == 3


def test_queries_that_no_run_drew_were_not_trained_on(tmp_path, monkeypatch):
    draws = {STAGE1: {"q201", "q202"}, STAGE2: {"q202", "q203"}, BOTH: {"q204"}}
    monkeypatch.setattr(shown, "drawn_queries", lambda _, __, kept: draws[kept.parent.parent.name])
    given, original = [], shown.group_queries

    def grouped(*parts):
        given.append(set(parts[2]))
        return original(*parts)

    monkeypatch.setattr(shown, "group_queries", grouped)
    draw = ["--data.pseudo_queries", "0", "--data.max_queries", "2", "--seeds", "0"]
    every = set(judgements_of("demo", "train"))
    assert every > {"q201", "q202", "q203", "q204"}
    work(tmp_path / "base", *draw, "--only", BASE)
    assert given[-1] == every  # no run has drawn yet
    _, content, _ = work(tmp_path / "out", *draw)
    assert given[-1] == {"q201", "q202", "q203", "q204"}
    assert content["training_overlap"]["drawn_queries"] == 4
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "relevant for one of the 4 queries drawn from train, or for one made" in table
    work(tmp_path / "alone", *draw, "--only", BOTH)
    assert given[-1] == {"q201", "q202", "q204"}
    _, content, _ = work(tmp_path / "one draws", *draw, "--stage2.data.max_queries", "0")
    assert given[-1] == every
    assert "drawn_queries" not in content["training_overlap"]


def test_a_table_that_cannot_tell_what_was_drawn_says_so(tmp_path):
    draw = ["--data.pseudo_queries", "0", "--data.max_queries", "2", "--seeds", "0", "--only", STAGE2]
    folder = tmp_path / "out" / STAGE2 / "seed0"
    said = f"{folder / 'run' / 'data'}, which tells the queries that data.max_queries drew, was deleted"
    content = work(tmp_path / "out", *draw)[1]
    assert "training_overlap" not in content
    assert content["training_overlap_unknown"].startswith(said)
    (folder / "drawn_queries.json").write_text('["q202"]')
    shown.drawn_queries.cache_clear()
    content = work(tmp_path / "out", *draw)[1]
    assert "training_overlap_unknown" not in content
    assert content["training_overlap"]["drawn_queries"] == 1
