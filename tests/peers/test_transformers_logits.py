"""Our logits against transformers' own, computed now in its own environment.

Set PRORANK_PEER_PYTHON to a Python with torch and transformers (and gguf, for the GGUF comparison).
"""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.export import save_params
from prorank_jax.models.sources import SMOLLM2_SOURCE, find_smollm2
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import load_model_config, load_params

pytestmark = pytest.mark.peers

PEER_PYTHON = os.environ.get("PRORANK_PEER_PYTHON", "")
SCRIPT = Path(__file__).with_name("transformers_logits.py")
PARITY = 2e-4
SENTENCES = (
    "query: how do vaccines work\ndocument: A vaccine trains the immune system to recognise a pathogen.",
    "Is the document relevant to the query? Answer 0 or 1.",
    "The mitochondrion is the powerhouse of the cell; it makes most of the cell's supply of ATP, "
    "which is used as a source of chemical energy. Zürich, naïve, 東京, 🙂 and 3.14159 are tokens too.",
    "1",
    "def add(a, b):\n    return a + b\n",
)


@pytest.fixture(autouse=True)
def _needs_the_peer() -> None:
    if not PEER_PYTHON:
        pytest.skip("PRORANK_PEER_PYTHON is not set: it names a Python with torch and transformers")


def run_peer(*arguments: str | Path) -> None:
    command = [PEER_PYTHON, SCRIPT, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]


def peer_logits(model: Path, tokens: np.ndarray, lengths: np.ndarray, folder: Path, *more: str) -> np.ndarray:
    np.savez(folder / "tokens.npz", tokens=tokens, lengths=lengths)
    run_peer(
        "logits",
        "--model",
        model,
        "--tokens",
        folder / "tokens.npz",
        "--output",
        folder / "logits.npz",
        *more,
    )
    return np.load(folder / "logits.npz")["logits"]


@partial(jax.jit, static_argnames="config")
def our_logits(params, tokens, lengths, *, config: ModelConfig):
    model, variables = Transformer(config), {"params": params}
    hidden, _ = model.apply(variables, tokens, prompt_layout(lengths, tokens.shape[1]))
    return model.apply(variables, hidden, method="answer_logits")


def largest_difference(ours, theirs: np.ndarray, lengths: np.ndarray, record_property) -> float:
    real = np.arange(theirs.shape[1]) < lengths[:, None]
    worst = float(np.abs(np.asarray(ours) - theirs)[real].max())
    record_property("largest_difference", worst)
    scale = np.abs(theirs[real]).max()
    print(f"largest difference {worst:.2e} over {real.sum()} positions, |logits| up to {scale:.1f}")
    return worst


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_fresh_random_checkpoints(tmp_path, shard_size, record_property):
    run_peer("random", "--output", tmp_path, "--seed", "20", "--max-shard-size", shard_size)
    folders = sorted(tmp_path.glob("transformers_*"))
    assert len(folders) == 4
    for folder in folders:
        assert (folder / "model.safetensors").exists() == (shard_size == "1GB")
        config, expected = load_model_config(folder), np.load(folder / "expected.npz")
        params = load_params(folder, config)
        logits = our_logits(params, expected["tokens"], expected["lengths"], config=config)
        assert largest_difference(logits, expected["logits"], expected["lengths"], record_property) <= PARITY


def sentence_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] int32 of the sentences in a model's own ids, and lengths [B] int32."""
    ids = load_tokenizer(str(file))(list(SENTENCES))["input_ids"]
    lengths = np.array([len(row) for row in ids], np.int32)
    tokens = np.zeros((len(ids), lengths.max()), np.int32)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = values
    return tokens, lengths


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M with a batch of real sentences: file, config, params, tokens, lengths."""
    file = find_smollm2()
    if file is None:
        pytest.skip(f"{SMOLLM2_SOURCE} is neither installed nor in the cache")
    config = load_model_config(file)
    return file, config, load_params(file, config), *sentence_batch(file)


@pytest.mark.slow
def test_transformers_loads_our_export_of_smollm2(smollm2, tmp_path, record_property):
    _, config, params, tokens, lengths = smollm2
    save_params(params, config, tmp_path / "export")
    theirs = peer_logits(tmp_path / "export", tokens, lengths, tmp_path)
    ours = our_logits(params, tokens, lengths, config=config)
    assert largest_difference(ours, theirs, lengths, record_property) <= PARITY


@pytest.mark.slow
def test_transformers_reads_the_same_gguf(smollm2, tmp_path, record_property):
    file, config, params, tokens, lengths = smollm2
    found = subprocess.run([PEER_PYTHON, "-c", "import gguf"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip("the peer environment has no gguf package")
    theirs = peer_logits(file.parent, tokens, lengths, tmp_path, "--gguf-file", file.name)
    ours = our_logits(params, tokens, lengths, config=config)
    assert largest_difference(ours, theirs, lengths, record_property) <= PARITY
