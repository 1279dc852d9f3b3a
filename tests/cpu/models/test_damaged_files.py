"""Weight files that are cut off, damaged or lying: one ValueError that names the file, and no crash."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.models.gguf_header import read_header
from prorank_jax.models.gguf_weights import gguf_model_config
from prorank_jax.models.safetensors_weights import file_tensors
from tests.cpu.models.checkpoint_files import (
    write_gguf,
)


def write_raw(file: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return file


def entry(shape, begin, end, dtype="F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "named"),
    [
        ({"a": entry([4], 0, 16)}, b"x" * 15, "ends at byte 16 .* has only 15"),
        ({"a": entry([2**40, 2**40], 0, 16)}, b"x" * 16, "cannot lie in bytes 0 to 16"),
        ({"a": entry([2**62], 0, 2**64)}, b"x" * 16, "has only 16"),
        ({"a": entry([4], 0, 12)}, b"x" * 16, "cannot lie"),
        ({"a": entry([4], 16, 0)}, b"x" * 16, "cannot lie"),
        ({"a": entry([-4], 0, -16)}, b"x" * 16, "is described by"),
        ({"a": entry([4.0], 0, 16)}, b"x" * 16, "is described by"),
        ({"a": entry([True], 0, 4)}, b"x" * 4, "is described by"),
        ({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, b"x" * 24, "'b' overlaps 'a'"),
        ({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, b"x" * 36, "bytes 16 to 20 belong to no tensor"),
        ({"a": entry([4], 0, 16)}, b"x" * 20, "4 bytes after the last tensor"),
        ({"a": entry([16], 0, 16, "I8")}, b"x" * 16, "'a' is I8; supported are F32, F16, BF16"),
        ({"a": entry([16], 0, 16, "F8_E4M3")}, b"x" * 16, "F8_E4M3"),
        ({"a": [1, 2]}, b"", "no description"),
        ({"a": {"dtype": "F32"}}, b"", "is described by"),
        ([], b"", "no JSON object"),
        (b"{", b"", "unreadable JSON"),
        (b"[" * 200_000, b"", "unreadable JSON"),
        (b"\xff\xfe", b"", "unreadable JSON"),
        (b'{"a":' + json.dumps(entry([1], 0, 4)).encode() + b',"a":{}}', b"x" * 4, "'a' is there twice"),
        (
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
            b"x" * 4,
            "unreadable JSON",
        ),
    ],
)
def test_lying_safetensors_headers(tmp_path, header, data, named):
    file = write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(ValueError, match=named) as caught:
        file_tensors(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"1234", struct.pack("<Q", 2**63) + b"{}", b"version https://git-lfs"]
)
def test_files_that_are_no_safetensors(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file, or cut off"):
        file_tensors(file)


@pytest.mark.parametrize("kept", [0.001, 0.02, 0.5, 0.999])
def test_truncated_files(qwen2, tmp_path, kept):
    for name, whole in (
        ("m.safetensors", _whole_safetensors(qwen2)),
        ("m.gguf", _whole_gguf(qwen2, tmp_path)),
    ):
        file = tmp_path / name
        file.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            file_tensors(file) if name.endswith("safetensors") else read_header(file)


def _whole_safetensors(golden) -> bytes:
    return (golden.folder / "model.safetensors").read_bytes()


def _whole_gguf(golden, folder: Path) -> bytes:
    return write_gguf(golden, folder / "whole.gguf").read_bytes()


def _flipped(content: bytes, places, header_size: int) -> bytes:
    damaged = bytearray(content)
    for place, value in places:
        damaged[place % header_size] = value
    return bytes(damaged)


PLACES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


@given(PLACES)
@settings(max_examples=150, deadline=None)
def test_damaged_safetensors_headers_raise_value_errors_only(qwen2, tmp_path_factory, places):
    content = _whole_safetensors(qwen2)
    file = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    file.write_bytes(_flipped(content, places, 8 + struct.unpack("<Q", content[:8])[0]))
    try:
        tensors = file_tensors(file)
    except ValueError:
        return
    assert all(t.read().shape == t.shape for t in tensors.values())


@given(PLACES)
@settings(max_examples=150, deadline=None)
def test_damaged_gguf_headers_raise_value_errors_only(small_gguf, tmp_path_factory, places):
    file = tmp_path_factory.mktemp("damaged") / "model.gguf"
    file.write_bytes(_flipped(small_gguf, places, 3000))
    try:
        header = read_header(file)
        gguf_model_config(file)
    except ValueError:
        return
    assert header.tensors


@pytest.fixture(scope="module")
def small_gguf(qwen2, tmp_path_factory) -> bytes:
    return _whole_gguf(qwen2, tmp_path_factory.mktemp("gguf"))


def _gguf_bytes(values: bytes = b"", tensors: bytes = b"", counts=(0, 0), version=3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + values + tensors


def _gguf_string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf_tensor(name=b"t", shape=(32,), kind=0, offset=0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _gguf_string(name) + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"GGUF", "too short"),
        (b"x" * 64, "no GGUF file"),
        (_gguf_bytes(version=1), "version 1"),
        (_gguf_bytes(version=3 << 24), "version 50331648"),
        (_gguf_bytes(counts=(0, 2**60)), "past the end"),
        (_gguf_bytes(counts=(2**60, 0)), "past the end"),
        (_gguf_bytes(struct.pack("<Q", 2**63), counts=(0, 1)), "past the end"),
        (_gguf_bytes(_gguf_string(b"a") + struct.pack("<I", 99), counts=(0, 1)), "unknown type 99"),
        (_gguf_bytes(_gguf_string(b"a") + struct.pack("<IIQ", 9, 8, 2**61), counts=(0, 1)), "past the end"),
        (_gguf_bytes(_gguf_string(b"a") + struct.pack("<IIQ", 9, 0, 2**63), counts=(0, 1)), "past the end"),
        (_gguf_bytes(_gguf_string(b"a") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)), "unsupported type 9"),
        (_gguf_bytes(_gguf_string(b"\xff") + struct.pack("<I", 0), counts=(0, 1)), "UTF-8"),
        (
            _gguf_bytes((_gguf_string(b"a") + struct.pack("<IB", 0, 1)) * 2, counts=(0, 2)),
            "'a' is there twice",
        ),
        (_gguf_bytes(tensors=_gguf_tensor(shape=(1,) * 5), counts=(1, 0)), "5 dimensions"),
        (_gguf_bytes(tensors=_gguf_tensor(shape=(2**63, 2**63)), counts=(1, 0)), "has only 0"),
        (_gguf_bytes(tensors=_gguf_tensor(offset=2**63), counts=(1, 0)), "has only 0"),
        (_gguf_bytes(tensors=_gguf_tensor(offset=1), counts=(1, 0)), "starts at byte 1"),
        (_gguf_bytes(tensors=_gguf_tensor(kind=24), counts=(1, 0)), "is I8"),
        (_gguf_bytes(tensors=_gguf_tensor(kind=9999), counts=(1, 0)), "unknown type 9999"),
        (_gguf_bytes(tensors=_gguf_tensor(kind=8, shape=(33,)), counts=(1, 0)), "no multiple of 32"),
        (_gguf_bytes(tensors=_gguf_tensor() * 2, counts=(2, 0)), "'t' is there twice"),
        (
            _gguf_bytes(tensors=_gguf_tensor() + _gguf_tensor(b"u", offset=32), counts=(2, 0)) + b"x" * 512,
            "'u' overlaps 't'",
        ),
    ],
)
def test_lying_gguf_headers(tmp_path, content, named):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=named) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
