"""Which prompt a model is asked with: the caller's wish, its run's, its prorank.json, the defaults."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from prorank_jax.config_files import load_config
from prorank_jax.model_prompt import DEFAULT_ROOM, prompt_settings_of
from prorank_jax.pretrained import Pretrained, open_pretrained
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompts import make_renderer
from tests.cpu.tiny_run import write_model_folder

SAVED = PromptSettings("Judge.", "prefer recent work", 208)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Pretrained:
    """A model from elsewhere, with 256 positions."""
    return open_pretrained(str(write_model_folder(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Pretrained:
    """One with a prorank.json."""
    return dataclasses.replace(model, path=write_settings(tmp_path_factory.mktemp("saved"), SAVED))


def test_a_folder_with_two_stages_names_them(tmp_path):
    for stage in ("stage1", "stage2"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.yaml").write_text("stage: 1")
        (tmp_path / stage / "model_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds runs and is none itself; name .*/stage1 or .*/stage2$"):
        open_pretrained(f"{tmp_path}/")


@pytest.mark.parametrize("gone", ["config.yaml", "model_config.json"])
def test_a_run_without_one_of_its_files_names_it(gone, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in {"config.yaml", "model_config.json"} - {gone}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"holds checkpoints of a run but no {gone}; put it back"):
        open_pretrained(str(tmp_path))


def write_settings(folder: Path, settings: PromptSettings) -> Path:
    (folder / "prorank.json").write_text(json.dumps(dataclasses.asdict(settings)))
    return folder


def with_positions(model: Pretrained, positions: int) -> Pretrained:
    return dataclasses.replace(model, config=dataclasses.replace(model.config, max_positions=positions))


def test_the_run_comes_first_then_the_file_then_the_defaults(model, saved):
    fields = {"data.system": "S", "data.instruction": "I", "data.max_length": 99, "model.source": "m"}
    trained = dataclasses.replace(saved, run=load_config(None, fields))
    assert prompt_settings_of(trained) == PromptSettings("S", "I", 99, "head")
    fields["data.excerpts"] = "key_sentences"
    other = dataclasses.replace(saved, run=load_config(None, fields))
    assert prompt_settings_of(other) == PromptSettings("S", "I", 99, "key_sentences")
    assert prompt_settings_of(saved) == SAVED
    assert prompt_settings_of(model) == PromptSettings("", "", 256)


@pytest.mark.parametrize("name", ["model", "saved"])
def test_a_callers_wish_stands_above_all(name, request):
    model = request.getfixturevalue(name)
    own = prompt_settings_of(model)
    assert prompt_settings_of(model, system="") == dataclasses.replace(own, system="")
    assert prompt_settings_of(model, instruction="find") == dataclasses.replace(own, instruction="find")
    assert prompt_settings_of(model, max_length=200) == dataclasses.replace(own, max_length=200)
    cut = dataclasses.replace(own, excerpts="key_sentences")
    assert prompt_settings_of(model, excerpts="key_sentences") == cut


@pytest.mark.parametrize("system", ["", "A longer sentence than the model's own, of many more words."])
@pytest.mark.parametrize("positions", [256, 4096, 100_000])
def test_the_default_length_is_mxbais_or_the_models(model, positions, system):
    length = prompt_settings_of(with_positions(model, positions), system=system).max_length
    template = make_renderer(model.tokenizer, max_length=256, system=system).template_length
    assert length == min(positions, DEFAULT_ROOM + template)


def test_a_saved_length_stands_whatever_the_default(saved, tmp_path):
    longer = dataclasses.replace(SAVED, max_length=20_000)
    other = dataclasses.replace(saved, path=write_settings(tmp_path, longer))
    assert prompt_settings_of(with_positions(other, 32_768)) == longer


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"max_length": 257}, "max_length=257: .* has 256 positions; give no more"),
        ({"max_length": 3}, "max_length=3: must be a whole number of at least 16"),
        ({"excerpts": "tail"}, "excerpts='tail': choose one of head, key_sentences"),
        ({"max_length": 99.5}, r"max_length=99\.5: must be a whole number"),
    ],
)
def test_what_cannot_work_is_named(model, wish, said):
    with pytest.raises(ValueError, match=said):
        prompt_settings_of(model, **wish)


def test_a_saved_length_beyond_the_positions_is_refused(saved):
    with pytest.raises(ValueError, match=r"max_length=208: .* has 100 positions"):
        prompt_settings_of(with_positions(saved, 100))
