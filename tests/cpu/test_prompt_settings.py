"""prorank.json: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.prompt_settings import SETTINGS_FILE, PromptSettings, read_prompt_settings
from prorank_jax.run_folder import write_json

GOOD = {"system": "Judge.", "instruction": "", "max_length": 128}


@given(st.text(), st.text(), st.integers(16, 1 << 20))
def test_settings_are_read_back(tmp_path_factory, system, instruction, max_length):
    folder = tmp_path_factory.mktemp("model")
    settings = PromptSettings(system, instruction, max_length)
    write_json(folder / SETTINGS_FILE, asdict(settings))
    assert read_prompt_settings(folder) == settings


def test_a_model_from_elsewhere_has_none(tmp_path):
    (tmp_path / "model.gguf").write_text("")
    assert read_prompt_settings(tmp_path) is None
    assert read_prompt_settings(tmp_path / "model.gguf") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not list"),
        (json.dumps(GOOD | {"sytem": ""}), "not system, instruction, max_length, sytem"),
        (json.dumps({"system": ""}), "must hold exactly system, instruction, max_length"),
        (json.dumps(GOOD | {"system": None}), "system=None"),
        (json.dumps(GOOD | {"instruction": 3}), "instruction=3"),
        (json.dumps(GOOD | {"max_length": 128.0}), r"max_length=128\.0"),
        (json.dumps(GOOD | {"max_length": True}), "max_length=True"),
        (json.dumps(GOOD | {"max_length": 3}), "max_length=3"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / SETTINGS_FILE).write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_prompt_settings(tmp_path)
    assert SETTINGS_FILE in str(refusal.value)


def test_no_utf8(tmp_path):
    (tmp_path / SETTINGS_FILE).write_bytes(b"\xff")
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompt_settings(tmp_path)
