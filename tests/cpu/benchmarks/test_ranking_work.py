from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.benchmarks.peer_model import read_peer_model
from prorank_jax.benchmarks.ranking_work import (
    RankingWork,
    first_batches,
    log_grades,
    real_tokens,
    write_ranking_work,
)
from prorank_jax.config_files import config_from_flat, flatten
from prorank_jax.data import open_dataset
from prorank_jax.ranking_losses import LOSSES, ListLabels
from tests.cpu.benchmarks.command_lines import comparison
from tests.cpu.benchmarks.peers import load_peer
from tests.cpu.benchmarks.tiny_work import MAX_LENGTH, tiny_options, write_tiny_model

SIZE = RankingWork(lists=2, list_size=4, steps=3)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder and the settings that were returned."""
    root = tmp_path_factory.mktemp("ranking")
    options = tiny_options(write_tiny_model(root / "model"), peer="sentence-transformers", seed=5)
    (root / "work").mkdir()
    return root / "work", write_ranking_work(options, SIZE, root / "work")


@pytest.fixture(scope="module")
def batches(work):
    """The batches that our side will train on, read as it reads them."""
    folder, settings = work
    config = config_from_flat(flatten(settings["ours"]["config"]))
    renderer = read_peer_model(folder / "model").renderer
    data = config.data
    examples = open_dataset(
        data.source, data.split, data, renderer, folder / "run" / "data", config.train.seed, True
    )
    return first_batches(examples, config, settings["steps"])


def test_the_file_holds_what_was_returned(work):
    folder, settings = work
    read = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(settings))
    assert read["seed"] == 5
    assert len(read["lists"]) == SIZE.lists * SIZE.steps
    assert all(len(one["documents"]) == len(one["labels"]) == SIZE.list_size for one in read["lists"])


def test_texts_are_those_of_our_token_ids(work, batches):
    folder, settings = work
    render = read_peer_model(folder / "model").renderer.render
    lists = iter(settings["lists"])
    tokens = 0
    for batch in batches:
        for row in range(SIZE.lists):
            one = next(lists)
            prefix = batch.prefix[row, : batch.prefix_lengths[row]].tolist()
            for column, document in enumerate(one["documents"]):
                rest = batch.tokens[row, column, : batch.lengths[row, column]].tolist()
                assert render(one["query"], document) == prefix + rest
        tokens += real_tokens(batch)
    assert settings["tokens"] == tokens
    assert tokens < sum(batch.tokens.size + batch.prefix.size for batch in batches)


def test_our_side_trains_on_token_ids_that_it_makes_of_the_texts(work, batches):
    folder, settings = work
    renderer, rendered_now = (
        read_peer_model(folder / "model").renderer,
        load_peer("ours_ranking").rendered_now,
    )
    for number, batch in enumerate(batches):
        texts = settings["lists"][number * SIZE.lists :][: SIZE.lists]
        unread = batch.replace(prefix=batch.prefix - 1, tokens=batch.tokens - 1)
        jax.tree.map(np.testing.assert_array_equal, rendered_now(unread, texts, renderer), batch)


def test_a_peer_learns_our_targets(work, batches):
    _, settings = work
    rng = np.random.default_rng(0)
    labels = np.array([one["labels"] for one in settings["lists"]], np.float32)
    for step, batch in enumerate(batches):
        scores = rng.normal(size=batch.grades.shape).astype(np.float32)
        ours, weights = LOSSES["listwise"](
            scores, None, ListLabels(batch.grades, batch.teacher, batch.mask, batch.in_batch)
        )
        for row in range(SIZE.lists):
            # ListNet: cross entropy of softmax(scores) to softmax(labels)
            targets = softmax(labels[step * SIZE.lists + row])
            theirs = -(targets * np.log(softmax(scores[row]))).sum()
            assert ours[row] == pytest.approx(theirs, rel=1e-5)
        assert (np.asarray(weights) == 1).all()


def test_our_run_is_what_the_peer_is_told(work):
    folder, settings = work
    config = config_from_flat(flatten(settings["ours"]["config"]))
    assert config.stage == 2
    assert config.model.source == str(folder / "model")
    assert config.data.max_length == MAX_LENGTH
    assert config.ranking.losses == "listwise=1"
    optimizer = config.optimizer
    assert (optimizer.schedule, optimizer.warmup_steps, optimizer.weight_decay) == ("constant", 0, 0.0)
    for name in ("learning_rate", "b1", "b2", "eps", "max_grad_norm"):
        assert settings[name] == getattr(optimizer, name)


@given(st.lists(st.integers(-1, 4), min_size=2, max_size=9).filter(lambda grades: max(grades) > 0))
def test_softmax_of_log_grades_is_their_share(grades):
    shares = np.maximum(grades, 0) / np.maximum(grades, 0).sum()
    found = softmax(np.array(log_grades(grades), np.float32))
    np.testing.assert_allclose(found, shares, rtol=1e-6)
    assert (found[shares == 0] == 0).all()


def test_command_line():
    name, options, size = comparison("ranking --list_size 16 --remat full")
    assert (name, options.peer, options.max_length) == ("ranking", "sentence-transformers", 256)
    assert size == RankingWork(list_size=16, remat="full")
    assert comparison("ranking --quick")[2].list_size < RankingWork.list_size


@pytest.mark.parametrize(
    ("field", "value"), [("lists", 0), ("list_size", 1), ("steps", 0), ("remat", "some"), ("attention", "no")]
)
def test_wrong_values_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        RankingWork(**{field: value})
