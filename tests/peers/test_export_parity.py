"""Scores of an exported folder in transformers, sentence-transformers and mxbai-rerank against ours.

`PRORANK_PEER_PYTHON` names the interpreter of an environment with tests/peers/requirements.txt.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prorank_jax.chat_templates import QWEN_SYSTEM, make_chat_frame
from prorank_jax.export_folder import export_folder
from prorank_jax.models.export import save_params
from prorank_jax.models.sources import SMOLLM2_SOURCE, find_smollm2
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompts import make_renderer
from prorank_jax.reranker import Reranker
from tests.cpu.joining_tokenizer import JOINING_SIZE, write_joining_tokenizer
from tests.cpu.tiny import tiny_model
from tests.peers.test_mxbai_prompts import PIECES

pytestmark = pytest.mark.peers

SCRIPT = Path(__file__).with_name("export_scores.py")
LIBRARIES = ("transformers", "sentence-transformers")
PARITY = 1e-3
QUERY = "how do plants store water?"
REAL_PAIRS = (
    (QUERY, "Roots and stems of desert plants store water."),
    (QUERY, "Paris is the capital of France!"),
    ("水を 저장", "Wasser wird in Wurzeln gespeichert. "),
    (QUERY, "Leaves lose water; roots take it up. " * 40),
)
CARD_PAIRS = [(QUERY, "Roots store water."), (QUERY, "Paris.")]
Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def peer_python() -> str:
    python = os.environ.get("PRORANK_PEER_PYTHON")
    if not python:
        pytest.skip("PRORANK_PEER_PYTHON is not set: name a Python with tests/peers/requirements.txt")
    return python


def random_pairs(count: int, seed: int, longest_document: int) -> Pairs:
    generator = random.Random(seed)

    def text(longest: int) -> str:
        ending = generator.choice(("", ".", "?", "! ", "\n"))
        return "".join(generator.choices(PIECES, k=generator.randint(1, longest))) + ending

    return [(f"water{text(4)}", text(longest_document)) for _ in range(count)]


def peer_scores(python: str, folder: Path, pairs: Pairs, libraries: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores that each library gives; `card:` and a library: those of the card's own two pairs."""
    settings = json.loads((folder / "prorank.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(str(folder))
    renderer = make_renderer(tokenizer, **settings)
    frame = make_chat_frame(tokenizer, settings["system"])
    cases = {
        "pairs": pairs,
        "ids": [renderer.render(*pair) for pair in pairs],
        "zero": renderer.answer_tokens.zero,
        "one": renderer.answer_tokens.one,
        "room": renderer.room,
        "prefix": frame.prefix,
        "suffix": frame.suffix,
    }
    file = folder.parent / "cases.json"
    file.write_text(json.dumps(cases), encoding="utf-8")
    command = [python, str(SCRIPT), str(folder.resolve()), str(file), *libraries]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    scores = json.loads(finished.stdout.strip().splitlines()[-1])
    return {library: np.array(of_library, np.float32) for library, of_library in scores.items()}


def our_scores(model: Path | str, folder: Path, pairs: Pairs) -> np.ndarray:
    """Of the model before its export, with the prompt that was exported."""
    settings = json.loads((folder / "prorank.json").read_text(encoding="utf-8"))
    return Reranker.from_pretrained(str(model), **settings, batch_size=8).predict(pairs, show_progress=False)


def write_model(folder: Path, family: str = "qwen2", instruction: str = "") -> None:
    """A random model with Qwen's system sentence, as the package's own prompt has it."""
    model, params = tiny_model(family, scale=1.0, vocab_size=JOINING_SIZE, max_positions=512)
    save_params(params, model.config, folder)
    write_joining_tokenizer(folder)
    settings = {"system": QWEN_SYSTEM, "instruction": instruction, "max_length": 256}
    (folder / "prorank.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.fixture(scope="module", params=("qwen2", "qwen3", "llama"))
def tiny_export(request, tmp_path_factory) -> tuple[Path, Path]:
    """A random model of each family whose tokenizer joins words as Qwen's does, and its export."""
    root = tmp_path_factory.mktemp(request.param)
    write_model(root / "model", request.param, "prefer recent work")
    export_folder(str(root / "model"), root / "export")
    return root / "model", root / "export"


@pytest.fixture(scope="module")
def random_scores(peer_python, tiny_export) -> tuple[int, np.ndarray, dict[str, np.ndarray]]:
    """The seed of some pairs, our scores of them, and those of the others."""
    model, folder = tiny_export
    seed = int.from_bytes(os.urandom(4))
    pairs = random_pairs(60, seed, longest_document=60)
    asked = [*LIBRARIES, *(f"card:{library}" for library in LIBRARIES)]
    return seed, our_scores(model, folder, pairs), peer_scores(peer_python, folder, pairs, asked)


@pytest.mark.parametrize("library", LIBRARIES)
def test_scores_of_random_models(random_scores, library, record_property):
    seed, ours, others = random_scores
    difference = float(np.abs(ours - others[library]).max())
    record_property("largest_difference", difference)
    print(f"{library}: largest difference {difference:.1e}, scores from {ours.min():.2f} to {ours.max():.2f}")
    assert np.ptp(ours) > 100 * PARITY
    assert difference <= PARITY, f"seed {seed}"


def test_the_code_of_the_card_computes_in_float32_with_rounded_weights(peer_python, tmp_path):
    write_model(tmp_path / "model")
    export_folder(str(tmp_path / "model"), tmp_path / "export", dtype="bfloat16")
    ours = our_scores(tmp_path / "export", tmp_path / "export", CARD_PAIRS)
    asked = [f"card:{library}" for library in (*LIBRARIES, "mxbai-rerank")]
    theirs = peer_scores(peer_python, tmp_path / "export", [], asked)
    differences = {library: float(np.abs(ours - scores).max()) for library, scores in theirs.items()}
    print(f"ours {ours.round(3).tolist()}, largest differences {differences}")
    assert max(differences.values()) <= PARITY


def test_mxbai_rerank_gives_our_scores(peer_python, tmp_path):
    """With the package's own prompt, and documents cut where it cuts them."""
    write_model(tmp_path / "model")
    export_folder(str(tmp_path / "model"), tmp_path / "export")
    seed = int.from_bytes(os.urandom(4))
    pairs = random_pairs(60, seed, longest_document=60)
    ours = our_scores(tmp_path / "model", tmp_path / "export", pairs)
    theirs = peer_scores(peer_python, tmp_path / "export", pairs, ("card:mxbai-rerank", "mxbai-rerank"))
    assert np.ptp(ours) > 100 * PARITY
    assert np.abs(ours - theirs["mxbai-rerank"]).max() <= PARITY, f"seed {seed}"
    assert np.isfinite(theirs["card:mxbai-rerank"]).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_code_of_the_card_gives_our_scores(random_scores, tiny_export, library):
    ours = our_scores(*tiny_export, CARD_PAIRS)
    np.testing.assert_allclose(random_scores[-1][f"card:{library}"], ours, atol=PARITY)


@pytest.mark.slow
def test_scores_of_smollm2(peer_python, tmp_path, record_property):
    if find_smollm2() is None:
        pytest.skip(f"{SMOLLM2_SOURCE} is neither installed nor in the cache")
    export_folder(SMOLLM2_SOURCE, tmp_path / "export")
    settings = json.loads((tmp_path / "export" / "prorank.json").read_text(encoding="utf-8"))
    assert settings["max_length"] == 8192
    ours = our_scores(SMOLLM2_SOURCE, tmp_path / "export", list(REAL_PAIRS))
    others = peer_scores(peer_python, tmp_path / "export", list(REAL_PAIRS), (*LIBRARIES, "mxbai-rerank"))
    for library, theirs in others.items():
        difference = float(np.abs(ours - theirs).max())
        record_property(f"largest_difference_{library}", difference)
        print(f"{library}: largest difference {difference:.1e}; ours {ours.round(3).tolist()}")
        assert difference <= PARITY
