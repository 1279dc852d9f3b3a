"""The score is the difference of two logits, whatever stands beside a prompt in its batch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.layers import rows_at
from prorank_jax.sharding import make_mesh
from prorank_jax.steps import make_probe_step, make_score_step
from prorank_jax.types import Batch
from tests.cpu.tiny import ANSWERS, random_batch, tiny_model


def score(model, params, batch: Batch) -> np.ndarray:
    return np.asarray(
        make_score_step(model, ANSWERS, make_mesh(MeshOptions(), jax.devices()[:1]))(params, batch)
    )


def logit_differences(model, params, batch: Batch) -> np.ndarray:
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])

    @jax.jit
    def answer_logits(params):
        hidden, _ = model.apply({"params": params}, batch.tokens, layout)
        return model.apply(
            {"params": params}, rows_at(hidden, batch.lengths[:, None] - 1)[:, 0], method="answer_logits"
        )

    logits = answer_logits(params)
    return np.asarray(logits[:, ANSWERS.one] - logits[:, ANSWERS.zero])


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("qwen3", False), ("llama", True)])
def test_score_is_the_difference_of_the_answers_logits(family, tied):
    model, params = tiny_model(family, tied=tied)
    batch = random_batch()
    scores = score(model, params, batch)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, logit_differences(model, params, batch), atol=1e-5)


def test_the_probe_gives_the_same_scores():
    model, params = tiny_model()
    batch = random_batch()
    probe_step = make_probe_step(model, ANSWERS, 2, make_mesh(MeshOptions(), jax.devices()[:1]))
    scores, completions = probe_step(params, batch)
    np.testing.assert_allclose(scores, score(model, params, batch), atol=1e-5)
    assert completions.shape == (4, 2)


def test_score_depends_neither_on_padding_nor_on_the_batch():
    model, params = tiny_model()
    batch = random_batch(4, 10)
    together = score(model, params, batch)
    garbage = np.random.default_rng(9).integers(0, 24, (4, 7)).astype(np.int32)
    wider = batch.replace(tokens=np.concatenate([batch.tokens, garbage], axis=1))
    np.testing.assert_allclose(score(model, params, wider), together, atol=1e-5)
    order = np.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda rows: rows[order], batch)
    np.testing.assert_allclose(score(model, params, shuffled), together[order], atol=1e-5)
    row = jax.tree.map(lambda rows: rows[1:2], batch)
    alone = row.replace(tokens=row.tokens[:, : int(row.lengths[0])])
    np.testing.assert_allclose(score(model, params, alone), together[1:2], atol=1e-5)
