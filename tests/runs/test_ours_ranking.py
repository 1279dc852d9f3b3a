"""Our side of the stage 2 benchmark, in this process: what a round does inside its time."""

from __future__ import annotations

import numpy as np
import pytest

from prorank_jax.benchmarks.ranking_work import RankingWork, write_ranking_work
from prorank_jax.benchmarks.work import write_settings
from tests.cpu.benchmarks.peers import load_peer
from tests.cpu.benchmarks.tiny_work import tiny_options, write_tiny_model

# As many lists as the tests have devices.
SIZE = RankingWork(lists=8, list_size=3, steps=2, remat="none")
MARK = 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    (folder / "work").mkdir()
    options = tiny_options(write_tiny_model(folder / "model"), peer="sentence-transformers")
    settings = write_ranking_work(options, SIZE, folder / "work")
    settings["ours"]["config"]["probe"]["batch_size"] = SIZE.lists
    write_settings(folder / "work", settings)
    program = load_peer("ours_ranking")
    side = program.OurSide()
    side.load(folder / "work")
    with pytest.MonkeyPatch.context() as patch:  # it would raise the peak of the rounds
        patch.setattr(program, "measured_matmul_flops", lambda _: pytest.fail("measured"))
        side.prepare()
    return side, settings


def test_a_round_renders_the_texts_of_each_step_and_trains_on_them(prepared, monkeypatch):
    side, settings = prepared
    renderer, rendered, trained = side.run.renderer, [], []

    def render(pairs):
        rendered.append(pairs)
        return [[MARK] * len(ids) for ids in type(renderer).render_batch(renderer, pairs)]

    def step(batch):
        trained.append(batch)
        return {"loss": np.zeros(()), "grad_norm": np.zeros(())}

    monkeypatch.setattr(renderer, "render_batch", render)
    monkeypatch.setattr(side, "_step", step)
    assert side.run_round()["units"] == len(settings["lists"])
    assert len(rendered) == len(trained) == SIZE.steps
    assert [pair for pairs in rendered for pair in pairs] == [
        (one["query"], document) for one in settings["lists"] for document in one["documents"]
    ]
    for batch in trained:
        real = np.arange(batch.tokens.shape[2]) < np.where(batch.mask, batch.lengths, 0)[..., None]
        assert (batch.tokens[real] == MARK).all()


def test_rounds_compile_nothing_and_learn_from_the_same_lists(prepared):
    side, _ = prepared
    norm, *first = side.check()["values"]
    assert norm > 0
    assert len(first) == SIZE.steps
    done = side.run_round()
    assert done["compiled_again"] == 0
    assert done["seconds"] > 0
    assert side.check()["values"][1:] == pytest.approx(first, rel=0.05)
    assert np.mean(side.check()["values"][1:]) < np.mean(first)
    assert side.measure_yardstick()["facts"]["peak_flops"] > 0
