"""A sample of tests/robustness: texts and records of strangers do no harm."""

from __future__ import annotations

import pytest

from prorank_jax.reranker import Reranker
from tests.cpu.hostile_checks import check_collections, check_prompts, check_requests, check_scores
from tests.cpu.tiny_run import write_model_folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> Reranker:
    model = write_model_folder(tmp_path_factory.mktemp("model"))
    return Reranker.from_pretrained(str(model), max_length=208, batch_size=16)


def test_no_text_forges_a_turn_or_breaks_a_prompt():
    check_prompts(600, seed=0)


def test_every_pair_has_a_finite_score(reranker):
    check_scores(reranker, 100, seed=0)


def test_any_bytes_are_a_request_or_a_clients_error():
    assert check_requests(1500, seed=0) > 100


def test_a_folder_of_lies_is_refused_in_one_sentence(tmp_path):
    assert 0 < check_collections(tmp_path, 60, seed=0) < 60
