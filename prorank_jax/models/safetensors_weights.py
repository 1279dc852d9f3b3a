"""Hugging Face folders: finds the safetensors files, checks their headers, and maps their tensors.

The format (https://github.com/huggingface/safetensors): 8 bytes of header length, a JSON header of
name → dtype, shape and byte range, then the data. Headers are read here rather than by the library so
that a tensor is a view of the file, bfloat16 included, and every lie in a header is told by name.
"""

from __future__ import annotations

import json
import math
import re
import struct
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from prorank_jax.models.stored_tensor import StoredTensor, check_extents

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
ADAPTER_FILE = "adapter_config.json"
# Left by old exports; the values follow from rope_theta, so nothing is lost with them.
_BUFFERS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def folder_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a Hugging Face folder by name, without the buffers that hold no weights.

    Reads `model.safetensors`, else the shards of `model.safetensors.index.json`.

    Raises:
        ValueError: no weights, only pickled ones, an adapter beside them, or any file that does not hold what
            it says.
    """
    if (folder / ADAPTER_FILE).is_file():
        raise ValueError(
            f"{folder}: holds {ADAPTER_FILE}, an adapter of PEFT, which is not applied here; merge it into "
            "the weights (merge_and_unload), or move it to a folder of its own"
        )
    if (folder / SINGLE_FILE).is_file():
        tensors = file_tensors(folder / SINGLE_FILE)
    elif (folder / INDEX_FILE).is_file():
        tensors = _sharded_tensors(folder / INDEX_FILE)
    else:
        raise ValueError(_no_weights(folder))
    return {name: tensor for name, tensor in tensors.items() if not _BUFFERS.fullmatch(name)}


def file_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name; only the header is read.

    Raises:
        ValueError: a truncated file, or a header whose types, shapes and byte ranges do not agree.
    """
    header, start = _read_header(file)
    header.pop("__metadata__", None)
    limit = file.stat().st_size - start
    tensors, extents = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _checked_entry(file, name, entry)
        extents.append((begin, end, name))
        read = partial(_map_tensor, file, dtype, start + begin, shape)
        tensors[name] = StoredTensor(file, shape, read)
    check_extents(file, extents, limit, gaps=False)
    return tensors


def _map_tensor(file: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    # A mapping of its own for each tensor, so that its pages are given back with the array.
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the position at which the data starts."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(
                f"{file}: no safetensors file, or cut off inside its header ({size} bytes); fetch it again"
            )
        raw = stream.read(length)
    header = _parse_json(file, raw)
    if not isinstance(header, dict):
        raise ValueError(f"{file}: the header is no JSON object; the file is damaged")
    return header, 8 + length


def _parse_json(file: Path, raw: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise ValueError(f"{twice!r} is there twice")
        return values

    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: unreadable JSON ({error}); fetch it again") from error


def _checked_entry(file: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Data type, shape, begin and end of one tensor, as far as they agree with each other."""
    if not isinstance(entry, dict):
        raise ValueError(f"{file}: tensor {name!r} has no description; the file is damaged")
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise ValueError(
            f"{file}: tensor {name!r} is {entry.get('dtype')}; supported are {', '.join(_DTYPES)}: "
            "take the model's unquantised weights"
        )
    shape, offsets = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"{file}: tensor {name!r} is described by {entry}; the file is damaged")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{file}: tensor {name!r} of shape {shape} and type {entry['dtype']} cannot lie in bytes "
            f"{offsets[0]} to {offsets[1]}; the file is damaged"
        )
    return dtype, tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> list[int] | None:
    """The values if they are a list of whole numbers from 0, else None."""
    valid = isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
    return values if valid else None


def _sharded_tensors(index: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards; each must lie in the one file that the index names for it."""
    content = _parse_json(index, index.read_bytes())
    placement = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placement, dict) or not placement:
        raise ValueError(f"{index}: holds no weight_map; fetch it again")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted({_shard_name(index, file) for file in placement.values()}):
        file = index.parent / shard
        if not file.is_file():
            raise ValueError(f"{file}: this shard of {index.name} is missing; fetch it")
        for name, tensor in file_tensors(file).items():
            if name in tensors:
                raise ValueError(f"{file}: tensor {name!r} is also in {tensors[name].file.name}; remove one")
            if placement.get(name) != shard:
                told = placement.get(name, "no file")
                raise ValueError(f"{file}: holds tensor {name!r}, which {index.name} places in {told}")
            tensors[name] = tensor
    absent = sorted(placement.keys() - tensors.keys())
    if absent:
        raise ValueError(f"{index.parent / placement[absent[0]]}: lacks tensor {absent[0]!r} of {index.name}")
    return tensors


def _shard_name(index: Path, name: Any) -> str:
    """A plain file name. The file may be a link, as in the hub's cache; the name may not lead elsewhere."""
    plain = isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) is not None
    if not plain:
        raise ValueError(f"{index}: names the file {name!r}; shards are .safetensors files beside the index")
    return name


def _no_weights(folder: Path) -> str:
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        return (
            f"{folder}: holds only pickled weights ({pickled[0]}), which can run code when loaded; "
            "convert them with transformers' save_pretrained, which writes safetensors"
        )
    gguf = sorted(p.name for p in folder.glob("*.gguf"))
    if gguf:
        return f"{folder}: holds no {SINGLE_FILE}; name the GGUF file itself, e.g. {folder / gguf[0]}"
    return f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; name a folder with weights"
