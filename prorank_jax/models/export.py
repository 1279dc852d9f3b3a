"""Trained weights out: a Hugging Face folder that transformers, sentence-transformers and vLLM can load."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from prorank_jax.abandoned import remove_abandoned, sign
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.key_table import HF, Key, at_path, key_table
from prorank_jax.models.safetensors_weights import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from prorank_jax.run_folder import UNFINISHED
from prorank_jax.storage_faults import naming_place, reach_disk
from prorank_jax.types import Params

MAX_SHARD_BYTES = 4 * 1024**3
EXPORT_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def save_params(
    params: Params,
    config: ModelConfig,
    folder: Path,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors files; they appear in `folder` only when they are complete.

    A model above `max_shard_bytes` is written in shards with an index; one shard is on the host at a
    time. float32 loads back bit-equal; bfloat16 is rounded to nearest, ties to even.

    Args:
        params: nested dict as `load_params` gives it; every array wholly on this process's devices.
        config: of that model.
        folder: made if it is not there; other files in it (a tokenizer) stay.
        dtype: `float32` or `bfloat16`.
        max_shard_bytes: a tensor larger than this makes a shard by itself.

    Raises:
        ValueError: the folder already holds a model, or `params` do not fit `config`.
    """
    if dtype not in EXPORT_DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose one of {', '.join(EXPORT_DTYPES)}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes!r}: must be at least 1")
    _refuse_to_overwrite(folder)
    keys = key_table(config)
    _check_params(params, config, keys)
    with made_whole(folder) as target:
        _write_json(target / CONFIG_FILE, {**config.to_hf(), "torch_dtype": dtype})
        _write_weights(params, config, keys, target, EXPORT_DTYPES[dtype], max_shard_bytes)


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, whose content is that of `folder` when the block ends, and nowhere if it fails.

    A folder that is there may be a mount point, the working directory or behind a link: it is filled from
    inside, and not replaced. What a process that was killed left of the same work there is deleted first.
    """
    folder = folder.resolve()
    place = folder if folder.exists() else folder.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_abandoned(place)
        temporary = tempfile.TemporaryDirectory(dir=place, prefix=UNFINISHED)
    except OSError as error:  # which names a folder that nobody asked for
        raise OSError(error.errno, error.strerror, str(folder)) from error
    with temporary as unfinished:
        with naming_place(folder):
            sign(Path(unfinished))
        # A folder within: the temporary one is private to its owner, the export should not be.
        target = Path(unfinished) / "model"
        target.mkdir()
        yield target
        with naming_place(folder):
            reach_disk(target)
        _move_into_place(target, folder)


def _refuse_to_overwrite(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder to write to")
    there = [p.name for pattern in (CONFIG_FILE, "*.safetensors", INDEX_FILE) for p in folder.glob(pattern)]
    if there:
        raise ValueError(f"{folder}: already holds {sorted(there)[0]}; name another folder or remove it")


def _check_params(params: Params, config: ModelConfig, keys: tuple[Key, ...]) -> None:
    for key in keys:
        value, shape = at_path(params, key.path), key.full_shape(config.layers)
        name = ".".join(key.path)
        if tuple(np.shape(value)) != shape:
            raise ValueError(f"{name}: has shape {np.shape(value)}, but this model config needs {shape}")
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            raise ValueError(
                f"{name}: lies on other processes too; restore the checkpoint on one host to export it"
            )
    count = len(jax.tree.leaves(params))
    if count != len(keys):
        raise ValueError(f"params: {count} arrays, but this model config has {len(keys)}")


def _write_weights(
    params: Params, config: ModelConfig, keys: tuple[Key, ...], folder: Path, dtype: np.dtype, limit: int
) -> None:
    shards = _plan_shards(config, keys, dtype, limit)
    placement: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _stored(params, key, layer, dtype) for name, key, layer in shard}
        with naming_place(folder / file):
            save_file(tensors, folder / file, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        shutil.copymode(folder / CONFIG_FILE, folder / file)
        placement.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        total = sum(_bytes(key, dtype) for shard in shards for _, key, _ in shard)
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": placement})


def _plan_shards(
    config: ModelConfig, keys: tuple[Key, ...], dtype: np.dtype, limit: int
) -> list[list[tuple[str, Key, int]]]:
    """Fills one shard after the other, layer by layer, so that a layer lies together."""
    shards: list[list[tuple[str, Key, int]]] = [[]]
    filled = 0
    for name, key, layer in _tensors_in_order(config, keys):
        size = _bytes(key, dtype)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append((name, key, layer))
        filled += size
    return shards


def _tensors_in_order(config: ModelConfig, keys: tuple[Key, ...]) -> Iterator[tuple[str, Key, int]]:
    yield from ((key.hf, key, 0) for key in keys if not key.stacked)
    for layer in range(config.layers):
        yield from ((key.names(HF, config.layers)[layer], key, layer) for key in keys if key.stacked)


def _bytes(key: Key, dtype: np.dtype) -> int:
    return int(np.prod(key.stored_shape, dtype=np.int64)) * dtype.itemsize


def _stored(params: Params, key: Key, layer: int, dtype: np.dtype) -> np.ndarray:
    value = at_path(params, key.path)
    ours = np.asarray(value[layer] if key.stacked else value)
    # safetensors writes the buffer as it lies in memory, so a transposed view must be copied first.
    return np.ascontiguousarray(key.to_stored(ours), dtype=dtype)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with naming_place(file):
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _move_into_place(finished: Path, folder: Path) -> None:
    if not folder.exists():
        finished.rename(folder)
        return
    # config.json goes last: a folder without it is not taken for a model.
    for file in sorted(finished.iterdir(), key=lambda file: (file.name == CONFIG_FILE, file.name)):
        file.replace(folder / file.name)
