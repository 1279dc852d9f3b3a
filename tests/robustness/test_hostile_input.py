"""More than 20,000 hostile inputs; `make test-robustness`. A sample is in tests/cpu."""

from __future__ import annotations

from prorank_jax.reranker import Reranker
from tests.cpu.hostile_checks import check_collections, check_prompts, check_requests, check_scores
from tests.cpu.tiny_run import write_model_folder


def test_prompts():
    check_prompts(10_000, seed=1)


def test_scores(tmp_path):
    model = write_model_folder(tmp_path / "model")
    reranker = Reranker.from_pretrained(str(model), max_length=208, batch_size=32)
    check_scores(reranker, 2_000, seed=1)


def test_requests():
    assert check_requests(15_000, seed=1) > 1000


def test_collections(tmp_path):
    check_collections(tmp_path, 1_000, seed=1)
