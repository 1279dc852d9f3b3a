"""Model folders of strangers: links that lead out, and small files that claim to be huge."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prorank_jax.models.gguf_header import read_header
from prorank_jax.models.safetensors_weights import file_tensors
from prorank_jax.models.sources import resolve_source
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.models.weights import check_weights, load_model_config
from tests.cpu.models.conftest import GOLDENS
from tests.cpu.tiny_run import TOKENIZER, write_model_folder

QWEN2 = GOLDENS / "transformers_qwen2_tied"


@contextmanager
def no_more_than(mebibytes: int) -> Iterator[None]:
    """Fails where Python and numpy held more at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def snapshot_of(folder: Path, cache: Path) -> Path:
    """A model as the hub's client keeps it: links from a revision to files named by their hash."""
    snapshot = cache / "models--org--name" / "snapshots" / "0123abcd"
    blobs = cache / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:040x}")
    return snapshot


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path):
    snapshot = snapshot_of(write_model_folder(tmp_path / "model"), tmp_path / "cache")
    assert resolve_source(str(snapshot)) == snapshot
    check_weights(snapshot, load_model_config(snapshot))
    assert len(load_tokenizer(str(snapshot))) == len(load_tokenizer(str(TOKENIZER)))
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)  # the folder itself may be a link: whoever names it made it
    assert resolve_source(str(linked)) == linked


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_text_that_is_a_link_to_elsewhere_is_refused(tmp_path, name):
    secret = tmp_path / "credentials.json"
    secret.write_text('{"token": "s3cret"}')
    model = write_model_folder(tmp_path / "model")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(ValueError, match=rf"{name} is a link to .*credentials\.json, outside") as caught:
        resolve_source(str(model))
    assert "s3cret" not in str(caught.value)


def test_a_link_out_of_the_hubs_cache_is_refused_too(tmp_path):
    snapshot = snapshot_of(QWEN2, tmp_path / "cache")
    (tmp_path / "cache" / "outside.json").write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(Path("../../../outside.json"))
    with pytest.raises(ValueError, match="outside of the model's folder"):
        resolve_source(str(snapshot))


def test_links_within_the_folder_and_weights_elsewhere_are_read(tmp_path):
    """Of weights only numbers are taken, and large files are often kept on another disk."""
    model = write_model_folder(tmp_path / "model")
    (model / "config.json").rename(model / "real.json")
    (model / "config.json").symlink_to("real.json")
    (model / "model.safetensors").rename(tmp_path / "weights")
    (model / "model.safetensors").symlink_to(tmp_path / "weights")
    check_weights(resolve_source(str(model)), load_model_config(model))


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/status", "/nowhere"])
def test_weights_that_are_a_link_to_no_file_of_weights_are_refused(tmp_path, target):
    model = write_model_folder(tmp_path / "model")
    config = load_model_config(model)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(target)
    with no_more_than(8), pytest.raises(ValueError, match=str(model)):
        check_weights(model, config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("vocab_size", 10**15),
        ("hidden_size", 10**12),
        ("intermediate_size", 2**62),
        ("num_attention_heads", 2**40),
        ("head_dim", 2**50),
    ],
)
def test_a_config_that_claims_to_be_huge_is_refused_before_anything_is_made_for_it(tmp_path, field, value):
    model = tmp_path / "model"
    shutil.copytree(QWEN2, model)
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | {field: value}))
    with no_more_than(8), pytest.raises(ValueError, match=str(model)):
        check_weights(model, load_model_config(model))


def _gguf_array(kind: int, count: int, content: bytes) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
    return head + struct.pack("<IIQ", 9, kind, count) + content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (_gguf_array(4, 2**60, b""), "past the end"),
        (_gguf_array(8, 2**40, b""), "past the end"),
        (_gguf_array(0, 65 << 20, bytes(65 << 20)), "longer than"),
    ],
)
def test_a_gguf_header_that_would_fill_the_memory_is_refused_before(tmp_path, content, named):
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with no_more_than(8), pytest.raises(ValueError, match=named):
        read_header(file)


@pytest.mark.parametrize("claim", [2**40, 2**63, 99_999_999])
def test_a_safetensors_header_that_claims_to_be_huge_is_refused_before(tmp_path, claim):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", claim) + b"{}")
    with no_more_than(8), pytest.raises(ValueError, match="cut off inside its header"):
        file_tensors(file)


def test_a_tensor_that_claims_to_be_huge_is_refused_before(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"x" * 16)
    with no_more_than(8), pytest.raises(ValueError, match="has only 16"):
        file_tensors(file)
