"""The prompt's fixed texts are counted as the renderer lays them, and an answer is one token or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompt_template import single_token, template_length
from prorank_jax.prompts import make_renderer

TINY_QWEN = load_tokenizer(str(Path(__file__).parent / "goldens" / "tiny_qwen"))


@pytest.mark.parametrize("system", ["", "Judge well."])
def test_the_length_of_the_template_is_the_renderers(system: str) -> None:
    renderer = make_renderer(TINY_QWEN, max_length=400, system=system)
    assert template_length(TINY_QWEN, system) == renderer.template_length


def test_an_answer_is_one_token() -> None:
    assert TINY_QWEN.decode([single_token(TINY_QWEN, "1")]) == "1"
    for answer in ("", "relevant or not"):
        with pytest.raises(ValueError, match=rf"encodes the answer '{answer}' as \[.*\], not as one token"):
            single_token(TINY_QWEN, answer)
