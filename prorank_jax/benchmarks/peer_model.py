"""The model folder of a benchmark whose peers render prompts themselves: an export that all sides load."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prorank_jax.aot.model_shapes import PUBLISHED_SHAPES
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.work import MODEL_FOLDER, random_params, write_model
from prorank_jax.chat_templates import QWEN_SYSTEM, make_chat_frame
from prorank_jax.export_folder import export_folder
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.export import save_params
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.models.weights import load_model_config
from prorank_jax.prompt_settings import SETTINGS_FILE, PromptSettings
from prorank_jax.prompts import PromptRenderer, make_renderer
from prorank_jax.run_folder import write_json

QWEN2_THIRD = "qwen2-third"
# Qwen2.5-0.5B's layers, a third of them and of its vocabulary: the output embedding has the share of the
# arithmetic that it has in the whole model, and every matrix of a layer its real shape.
QWEN2_THIRD_CONFIG = dataclasses.replace(
    PUBLISHED_SHAPES["Qwen/Qwen2.5-0.5B-Instruct"], vocab_size=50_646, layers=8
)
_LAYOUT_FILE = "modules.json"


@dataclass(frozen=True)
class PeerModel:
    """An exported model, and what peers are told about its prompts.

    Attributes:
        config: its architecture.
        prompt: its settings.
        renderer: of the prompts that every side must see.
        frame: `prefix` and `suffix` of its chat format, and `room`, the tokens left for query and
            document; what mxbai-rerank calls `chat_template` and `max_length`.
    """

    config: ModelConfig
    prompt: PromptSettings
    renderer: PromptRenderer
    frame: dict[str, Any]


def export_peer_model(options: BenchmarkOptions, work: Path) -> PeerModel:
    """Exports the model in float32, with its prompt, into the work folder.

    `options.model` may also be `qwen2-third`: random weights of that shape with the tokenizer of SmolLM2,
    and Qwen's system sentence unless another is given.

    Raises:
        ValueError: no such model, a length it cannot hold, or a tokenizer whose prompts
            sentence-transformers cannot render.
    """
    stands_in = options.model == QWEN2_THIRD
    system = options.system or (QWEN_SYSTEM if stands_in else "")
    folder = work / MODEL_FOLDER
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        _write_weights(options, Path(scratch))
        unprepared = Path(scratch) / MODEL_FOLDER
        write_json(unprepared / SETTINGS_FILE, asdict(PromptSettings(system, "", options.max_length)))
        export_folder(str(unprepared), folder)
    if not (folder / _LAYOUT_FILE).is_file():
        raise ValueError(
            f"model={options.model!r}: its tokenizer joins pieces of a prompt, so that sentence-transformers "
            "would see other prompts; name another model"
        )
    return read_peer_model(folder)


def _write_weights(options: BenchmarkOptions, work: Path) -> None:
    """Weights and tokenizer, without a prompt."""
    if options.model != QWEN2_THIRD:
        write_model(options, work)
    elif options.quick:  # every model is shrunk to the same size
        write_model(dataclasses.replace(options, model=SMOLLM2_SOURCE), work)
    else:
        save_params(random_params(QWEN2_THIRD_CONFIG, options.seed), QWEN2_THIRD_CONFIG, work / MODEL_FOLDER)
        save_tokenizer(load_tokenizer(SMOLLM2_SOURCE), work / MODEL_FOLDER)


def read_peer_model(folder: Path) -> PeerModel:
    """The model of a folder that `export_peer_model` made."""
    prompt = PromptSettings(**json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")))
    tokenizer = load_tokenizer(str(folder))
    renderer = make_renderer(tokenizer, **asdict(prompt))
    frame = make_chat_frame(tokenizer, prompt.system)
    told = {"prefix": frame.prefix, "suffix": frame.suffix, "room": renderer.room}
    return PeerModel(load_model_config(folder), prompt, renderer, told)
