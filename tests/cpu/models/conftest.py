"""Golden checkpoints of transformers, and a forward pass that gives every logit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import load_model_config, load_params
from prorank_jax.types import Array, Params

GOLDENS = Path(__file__).parent.parent / "goldens"
FAMILIES = ("qwen2_tied", "qwen2_untied", "qwen3", "llama")


@dataclass(frozen=True)
class Golden:
    """A checkpoint that transformers saved, and the logits it computed.

    Attributes:
        tokens: [B, T] int32, padded on the right with tokens like any other.
        lengths: [B] int32.
        logits: [B, T, V] float32, meaningless at padding.
    """

    folder: Path
    config: ModelConfig
    params: Params
    tokens: np.ndarray
    lengths: np.ndarray
    logits: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """[B, T] bool, false at padding."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]


def read_golden(family: str) -> Golden:
    folder = GOLDENS / f"transformers_{family}"
    config = load_model_config(folder)
    expected = np.load(folder / "expected.npz", allow_pickle=False)
    return Golden(
        folder,
        config,
        load_params(folder, config),
        expected["tokens"],
        expected["lengths"],
        expected["logits"],
    )


@pytest.fixture(params=FAMILIES, scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each family's golden in turn."""
    return read_golden(request.param)


@pytest.fixture(scope="session")
def qwen2() -> Golden:
    """The golden nearest to the published rerankers: tied Qwen2."""
    return read_golden("qwen2_tied")


@partial(jax.jit, static_argnames=("config", "compute_dtype", "remat"))
def all_logits(
    params: Params,
    tokens: Array,
    lengths: Array,
    *,
    config: ModelConfig,
    compute_dtype: str = "float32",
    remat: str = "none",
) -> jax.Array:
    """Logits at every position, [B, T, V] float32; only tests of tiny models may do this."""
    model = Transformer(config, compute_dtype, remat)
    variables = {"params": params}
    hidden, _ = model.apply(variables, tokens, prompt_layout(lengths, tokens.shape[1]))
    return model.apply(variables, hidden, method="answer_logits")


@pytest.fixture(scope="session", name="all_logits")
def all_logits_fixture():
    """The function `all_logits`."""
    return all_logits
