"""Real Qwen2.5 weights: logits against transformers, prompts and scores against mxbai-rerank.

Random weights are no test of what training makes of them, nor a few layers one of how rounding adds up over
28. Each side holds 7 GB in float32, one after the other.

`make peers-qwen` sets PRORANK_QWEN, the GGUF file, and PRORANK_PEER_PYTHON.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import prorank_jax.reranker
from prorank_jax.models.export import save_params
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.models.weights import load_model_config, load_params
from prorank_jax.sharding import make_mesh
from tests.peers.test_mxbai_scores import ask_package, compare, make_cases
from tests.peers.test_transformers_logits import (
    PEER_PYTHON,
    largest_difference,
    our_logits,
    peer_logits,
    sentence_batch,
)

pytestmark = [pytest.mark.peers, pytest.mark.slow]

# Logits reach 24, and 28 layers have rounded before.
PARITY = 1e-3


@pytest.fixture(scope="module")
def qwen() -> Path:
    file = os.environ.get("PRORANK_QWEN")
    if not (PEER_PYTHON and file):
        pytest.skip("PRORANK_QWEN and PRORANK_PEER_PYTHON are not set; `make peers-qwen` sets both")
    return Path(file)


def test_logits(qwen, tmp_path, record_property):
    """transformers reads the same GGUF file by code of its own."""
    tokens, lengths = sentence_batch(qwen)
    theirs = peer_logits(qwen.parent, tokens, lengths, tmp_path, "--gguf-file", qwen.name)
    config = load_model_config(qwen)
    ours = np.asarray(our_logits(load_params(qwen, config), tokens, lengths, config=config))
    gc.collect()
    assert largest_difference(ours, theirs, lengths, record_property) <= PARITY


def test_scores(qwen, tmp_path, record_property, monkeypatch):
    """mxbai-rerank loads our export, tokenizer included."""
    # Each simulated device would hold a copy.
    one = jax.devices()[:1]
    monkeypatch.setattr(prorank_jax.reranker, "make_mesh", lambda options: make_mesh(options, one))
    config = load_model_config(qwen)
    save_params(load_params(qwen, config), config, tmp_path / "model")
    gc.collect()
    save_tokenizer(load_tokenizer(str(qwen)), tmp_path / "model")
    cases = make_cases((96,))
    ask_package(PEER_PYTHON, [tmp_path / "model"], cases, tmp_path)
    compare(tmp_path / "model", cases, record_property)
