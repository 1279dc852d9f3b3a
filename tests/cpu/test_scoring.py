"""The score is the difference of two logits, whatever stands beside a prompt in its batch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.layers import rows_at
from prorank_jax.prompts import AnswerTokens
from prorank_jax.sharding import make_mesh
from prorank_jax.steps import make_probe_step, make_score_step
from prorank_jax.types import Batch
from tests.cpu.test_rollouts import plain_logits, uneven_batch
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


def greedy(model, params, prompts: np.ndarray, new_tokens: int) -> np.ndarray:
    """[B, 1, L]: the likeliest token of the full sequence, one after the other."""
    completions = np.zeros((len(prompts), 1, new_tokens), np.int32)
    for place in range(new_tokens):
        logits = plain_logits(model, params, prompts, completions)
        completions[:, :, place] = logits[:, :, place].argmax(-1)
    return completions


@pytest.mark.parametrize("new_tokens", [1, 2, 4])
def test_the_probe_gives_the_same_scores_and_completes_greedily_up_to_the_first_end(new_tokens):
    model, params = tiny_model("qwen3")
    batch = uneven_batch(1)
    likeliest = greedy(model, params, batch.tokens, new_tokens)[:, 0]
    end = int(likeliest[0, new_tokens // 3])  # so the first row ends, before the last of four tokens
    ends = np.cumsum(likeliest == end, axis=1) > 0
    assert 0 < ends[:, -1].sum() < len(ends)
    answers = AnswerTokens(ANSWERS.zero, ANSWERS.one, end)
    filled = jax.tree.map(lambda rows: np.concatenate([rows, np.ones_like(rows[:1])]), batch)
    probe_step = make_probe_step(model, answers, new_tokens, make_mesh(MeshOptions(), jax.devices()[:1]))
    scores, completions = probe_step(params, filled.replace(lengths=np.array([*batch.lengths, 1])))
    np.testing.assert_array_equal(completions[:3], np.where(ends, end, likeliest))
    np.testing.assert_allclose(scores[:3], logit_differences(model, params, batch), atol=1e-5)


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
