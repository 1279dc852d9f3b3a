"""Reads the header of a GGUF file: metadata, and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read here rather
than by the `gguf` package because every count and length in it must be checked against the file before
it is believed, and because the package takes seconds for a vocabulary. Dequantising is the package's.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants as gguf_quants

from prorank_jax.models.stored_tensor import check_extents

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
# Four times the longest known, with 256,000 tokens; as Python objects it takes up to sixteen times as much.
_MAX_HEADER_BYTES = 64 << 20


@dataclass(frozen=True)
class GgufTensor:
    """One tensor; `shape` is outermost first, as numpy has it, and `offset` counts from the file's start."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file holds; metadata values are Python scalars, strings, or lists of them."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(file: Path) -> GgufHeader:
    """Reads and checks the header of a GGUF file, version 2 or 3, little-endian.

    Raises:
        ValueError: another format, a truncated file, or a header that contradicts itself or the file.
    """
    if file.stat().st_size < 24:
        raise ValueError(f"{file}: too short for a GGUF file; fetch it again")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(file, data).header()


class _Cursor:
    """A position in the file that only moves forward, and never past the end."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file = file
        self.data = data
        self.at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise ValueError(f"{self.file}: no GGUF file; name one, or a folder with safetensors")
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"{self.file}: GGUF version {version}; supported are 2 and 3, little-endian")
        tensor_count, value_count = self._scalar("Q"), self._scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            name = self._string()
            if name in metadata:
                raise self._damaged(f"metadata {name!r} is there twice")
            metadata[name] = self._value(self._scalar("I"))
        described = [self._tensor() for _ in range(tensor_count)]
        return GgufHeader(metadata, self._placed(described, metadata))

    def _damaged(self, problem: str) -> ValueError:
        return ValueError(f"{self.file}: {problem}; the file is damaged: fetch it again")

    def _require(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise self._damaged(f"the header goes on past the end of the file ({len(self.data)} bytes)")
        if size > _MAX_HEADER_BYTES - self.at:
            raise self._damaged(f"the header is longer than {_MAX_HEADER_BYTES} bytes")

    def _take(self, size: int) -> bytes:
        self._require(size)
        self.at += size
        return self.data[self.at - size : self.at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _string(self) -> str:
        raw = self._take(self._scalar("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a name or text is not UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._scalar("I"), self._scalar("Q"))
        raise self._damaged(f"metadata of the unknown type {kind}")

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            self._require(8 * count)  # the least that many strings take
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self._damaged(f"a metadata array of the unsupported type {kind}")
        code = _SCALARS[kind]
        raw = self._take(count * struct.calcsize(f"<{code}"))
        return list(struct.unpack(f"<{count}{code}", raw))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._scalar("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]
    ) -> dict[str, GgufTensor]:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment={alignment!r} is no power of two")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        extents = []
        for name, shape, kind_code, offset in described:
            if name in tensors:
                raise self._damaged(f"tensor {name!r} is there twice")
            if offset % alignment:
                raise self._damaged(f"tensor {name!r} starts at byte {offset}, no multiple of {alignment}")
            kind, size = self._kind_and_size(name, shape, kind_code)
            tensors[name] = GgufTensor(shape, kind, start + offset, size)
            extents.append((offset, offset + size, name))
        check_extents(self.file, extents, max(len(self.data) - start, 0), gaps=True)
        return tensors

    def _kind_and_size(
        self, name: str, shape: tuple[int, ...], code: int
    ) -> tuple[GGMLQuantizationType, int]:
        try:
            kind = GGMLQuantizationType(code)
        except ValueError as error:
            raise ValueError(f"{self.file}: tensor {name!r} has the unknown type {code}") from error
        if not can_dequantize(kind):
            raise ValueError(
                f"{self.file}: tensor {name!r} is {kind.name}, which cannot be read as float32; "
                "take a file in F32, F16, BF16, Q8_0 or another common quantisation"
            )
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise self._damaged(f"tensor {name!r} of shape {shape} has rows that are no multiple of {block}")
        return kind, math.prod(shape) // block * block_bytes


def can_dequantize(kind: GGMLQuantizationType) -> bool:
    """Whether the `gguf` package can turn this type into float32; it has a class for each that it can."""
    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    return kind in plain or hasattr(gguf_quants, kind.name)
