"""Pretrained weights in: Hugging Face folders and GGUF files (`export.py` is the way out).

Every tensor of a checkpoint must be one of `key_table`'s, and every one of those must be there, with its
shape: a name or shape that differs is an error before anything is read. Only two kinds of tensors are
left out: `rotary_emb.inv_freq` buffers, which follow from the config, and `lm_head.weight` beside tied
embeddings if it is the same table. GGUF's `rope_freqs.weight` is refused: it changes the rotary
embedding, and without it this would be a different model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prorank_jax.models.config import ModelConfig
from prorank_jax.models.gguf_weights import gguf_model_config, gguf_tensors
from prorank_jax.models.key_table import GGUF, HF, Key, at_path, key_table, put_at_path
from prorank_jax.models.safetensors_weights import CONFIG_FILE, folder_tensors
from prorank_jax.models.stored_tensor import StoredTensor
from prorank_jax.types import Params

_NAMED_PROBLEMS = 5
_COMPARED_ROWS = 4096


def load_model_config(path: Path) -> ModelConfig:
    """The architecture of the model in a Hugging Face folder or a GGUF file.

    Raises:
        ValueError: no config.json, unreadable metadata, or an architecture this port does not compute.
    """
    if path.is_file():
        return gguf_model_config(path)
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(f"{path}: holds no {CONFIG_FILE}; name a folder of a Hugging Face model")
    return read_model_config(path / CONFIG_FILE)


def read_model_config(file: Path) -> ModelConfig:
    """The architecture that a config.json of transformers describes.

    Raises:
        ValueError: unreadable JSON, or an architecture this port does not compute.
    """
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: unreadable JSON ({error}); fetch it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: no JSON object; fetch it again")
    try:
        return ModelConfig.from_hf(values)
    except ValueError as error:
        raise ValueError(f"{file.parent}: {error}") from error


def load_params(path: Path, config: ModelConfig, shardings: Any = None) -> Params:
    """Reads the weights in a Hugging Face folder or a GGUF file, one parameter after the other.

    On the host there is never more than one stacked parameter beside those already placed, and of that
    only what this process's devices hold.

    Args:
        path: a folder with safetensors, or a `.gguf` file.
        config: of that model; see `load_model_config`.
        shardings: a `jax.sharding.Sharding` for each parameter, nested like the parameters; None: all
            on the first device.

    Returns:
        The nested dict that `Transformer.init` gives under "params", unboxed; float32.

    Raises:
        ValueError: tensors that are unknown, missing or of another shape, or a file that is damaged.
    """
    layout, tensors = _open_tensors(path, config)
    params: Params = {}
    for key in key_table(config):
        stored = [tensors[name] for name in key.names(layout, config.layers)]
        sharding = default_sharding() if shardings is None else at_path(shardings, key.path)
        put_at_path(params, key.path, _load_parameter(key, layout, stored, sharding))
    return params


def check_weights(path: Path, config: ModelConfig) -> None:
    """Checks all that can be known of a model's weights without loading them.

    Raises:
        ValueError: as `load_params`.
    """
    _open_tensors(path, config)


def _open_tensors(path: Path, config: ModelConfig) -> tuple[str, dict[str, StoredTensor]]:
    """The layout of a checkpoint and its tensors, complete but unread."""
    layout = GGUF if path.is_file() else HF
    tensors = gguf_tensors(path) if layout == GGUF else folder_tensors(path)
    if layout == HF and config.tied:
        tensors = _without_tied_head(tensors)
    _check_complete(path, config, key_table(config), layout, tensors)
    return layout, tensors


def _load_parameter(
    key: Key, layout: str, stored: list[StoredTensor], sharding: jax.sharding.Sharding
) -> jax.Array:
    """One parameter, [N, …] if stacked: each tensor is read once, for the parts of all devices here."""
    shape = key.full_shape(len(stored))
    whole = (slice(None),) * len(shape)
    wanted = [index or whole for index in sharding.addressable_devices_indices_map(shape).values()]
    # Devices that hold the same part (replicas) share one host copy.
    parts = _read_parts(key, layout, stored, {repr(index): index for index in wanted})
    return jax.make_array_from_callback(shape, sharding, lambda index: parts[repr(index or whole)])


def _read_parts(
    key: Key, layout: str, stored: list[StoredTensor], wanted: dict[str, tuple[slice, ...]]
) -> dict[str, np.ndarray]:
    shape = key.full_shape(len(stored))
    parts = {name: np.empty(_sizes(index, shape), np.float32) for name, index in wanted.items()}
    for number, tensor in enumerate(stored):
        values: np.ndarray | None = None
        for name, index in wanted.items():
            layers, within = (index[0], index[1:]) if key.stacked else (slice(1), index)
            chosen = range(*layers.indices(len(stored)))
            if number not in chosen:
                continue
            if values is None:
                values = key.from_stored(tensor.read(), layout)
            rows = parts[name] if key.stacked else parts[name][None]
            rows[chosen.index(number)] = values[within]
    return parts


def _sizes(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(len(range(*cut.indices(size))) for cut, size in zip(index, shape, strict=True))


def _check_complete(
    path: Path, config: ModelConfig, keys: tuple[Key, ...], layout: str, tensors: Mapping[str, StoredTensor]
) -> None:
    """Raises one ValueError that names what is missing, unknown or of another shape."""
    expected = {name: key for key in keys for name in key.names(layout, config.layers)}
    problems = [f"missing tensor {name!r}" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name not in expected:
            problems.append(f"unknown tensor {name!r} in {tensor.file.name}{_reason(name)}")
        elif tensor.shape != expected[name].stored_shape:
            wanted = list(expected[name].stored_shape)
            problems.append(f"tensor {name!r} has shape {list(tensor.shape)}, expected {wanted}")
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        told = "; ".join(problems[:_NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"{path}: not the weights of a {config.family} model of this config: {told}")


def _reason(name: str) -> str:
    if name == "rope_freqs.weight":
        return " (it scales the rotary embedding, which is not supported)"
    if name == "lm_head.weight":
        return " (the config ties the embeddings, and this table has another shape)"
    return ""


def _without_tied_head(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Drops an output table that merely repeats the embedding; refuses one that differs from it."""
    embedding, head = tensors.get("model.embed_tokens.weight"), tensors.get("lm_head.weight")
    if head is None or embedding is None or head.shape != embedding.shape:
        return tensors
    first, second = embedding.read(), head.read()
    for start in range(0, len(first), _COMPARED_ROWS):
        rows = slice(start, start + _COMPARED_ROWS)
        if not np.array_equal(first[rows], second[rows]):
            raise ValueError(
                f"{head.file}: 'lm_head.weight' differs from the embedding although the config ties them; "
                'set "tie_word_embeddings": false in config.json if the model was trained untied'
            )
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def default_sharding() -> jax.sharding.Sharding:
    """All of an array on the first device of this process."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def host_sharding() -> jax.sharding.Sharding:
    """All of an array in the host's memory; on the first device where `JAX_PLATFORMS` leaves out the CPU."""
    try:
        return jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return default_sharding()
