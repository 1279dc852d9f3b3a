"""Our ranking losses against sentence-transformers' own, on lists drawn anew in every run.

Set PRORANK_PEER_PYTHON to a Python with sentence-transformers; see sentence_transformers_losses.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from prorank_jax.ranking_losses import ListLabels, LossOptions, combined_loss, make_losses, weight_totals

pytestmark = pytest.mark.peers

PEER_PYTHON = os.environ.get("PRORANK_PEER_PYTHON", "")
SCRIPT = Path(__file__).with_name("sentence_transformers_losses.py")
NAMES = ("pointwise", "listwise_teacher", "pairwise", "margin_mse", "info_nce")
Q, K = 7, 6


@pytest.fixture(scope="module")
def lists() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    relevant = np.zeros((Q, K), np.float32)
    relevant[:, 0] = 1
    return {
        "scores": rng.normal(0, 3, (Q, Q, K)).astype(np.float32),
        "lengths": rng.integers(2, K + 1, Q),
        "relevant": relevant,
        "soft": rng.random((Q, K), np.float32),
        "teacher": rng.normal(0, 3, (Q, K)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def theirs(lists, tmp_path_factory) -> dict[str, np.ndarray]:
    if not PEER_PYTHON:
        pytest.skip("PRORANK_PEER_PYTHON is not set: it names a Python with sentence-transformers")
    looked = "import importlib.util, sys; sys.exit(importlib.util.find_spec('sentence_transformers') is None)"
    if subprocess.run([PEER_PYTHON, "-c", looked], capture_output=True, check=False).returncode != 0:
        pytest.skip("the peer environment has no sentence-transformers")
    folder = tmp_path_factory.mktemp("losses")
    np.savez(folder / "lists.npz", **lists)
    command = [PEER_PYTHON, str(SCRIPT), str(folder / "lists.npz"), str(folder / "losses.npz")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return dict(np.load(folder / "losses.npz"))


def _labels(name: str, lists: dict[str, np.ndarray]) -> ListLabels:
    """Of the places [Q, Q · K]: the query's own documents, and for `info_nce` those of all others."""
    own = np.repeat(np.eye(Q, dtype=bool), K, axis=1)
    if name == "info_nce":
        mask, in_batch = own, ~own
    else:
        mask = own & np.tile(np.arange(K) < lists["lengths"][:, None], (1, Q))
        in_batch = np.zeros_like(own)
    grades = lists["soft"] if name == "pointwise" else lists["relevant"]
    return ListLabels(np.tile(grades, (1, Q)), np.tile(lists["teacher"], (1, Q)), mask, in_batch)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name, lists, theirs):
    labels, losses = _labels(name, lists), make_losses(LossOptions(top_grade=1.0))

    def loss(scores):
        totals = weight_totals(labels, [name], losses)
        return combined_loss(scores, None, labels, {name: 1.0}, totals, losses)[0]

    value, gradient = jax.value_and_grad(loss)(lists["scores"].reshape(Q, Q * K))
    np.testing.assert_allclose(value, theirs[name], rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(Q, Q, K), theirs[f"{name}_gradient"], rtol=1e-4, atol=1e-6)
