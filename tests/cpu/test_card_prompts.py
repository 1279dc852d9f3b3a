"""A card says which of its figures had other prompts than its folder's, and is silent where none had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prorank_jax.card_prompts import exported_otherwise, measured_otherwise
from prorank_jax.model_history import Evaluation, read_evaluation
from prorank_jax.prompt_settings import PromptSettings

OWN = PromptSettings("Judge.", "prefer recent work", 208, "key_sentences")
PLAIN = PromptSettings("", "", 224)
CHANGES = {"system": "Rank `x`.\n\n## Evaluation", "instruction": "", "max_length": 150, "excerpts": "head"}
FIGURES = {"demo": {"first_stage": {"ndcg@10": 0.5}, "reranked": {"ndcg@10": 0.6}}}


def measured(folder: Path, max_length: int | None = None, **chosen: str | None) -> Evaluation:
    """As launch/evaluate.py tells it: null for what was left to the model."""
    told = {"system": None, "instruction": None, "excerpts": None, "max_length": max_length} | chosen
    (folder / "metrics.json").write_text(json.dumps({"datasets": FIGURES, "model": "m"} | told))
    return read_evaluation(folder / "metrics.json")


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_that_an_export_changed_is_named_with_both_values(name):
    said = exported_otherwise(OWN, replace(OWN, **{name: CHANGES[name]}))
    assert [other for other in CHANGES if f"`{other}`" in said] == [name]
    assert json.dumps(getattr(OWN, name)) in said
    assert (json.dumps(CHANGES[name]) if CHANGES[name] else "none") in said
    assert said.splitlines() == [said]


def test_prompts_that_are_as_before_need_no_word(tmp_path):
    assert exported_otherwise(OWN, OWN) == exported_otherwise(None, PLAIN) == ""
    assert measured_otherwise(measured(tmp_path, 208), OWN, OWN) == ""
    assert measured_otherwise(measured(tmp_path), OWN, OWN) == ""
    assert measured_otherwise(measured(tmp_path, 224), None, PLAIN) == ""
    assert measured_otherwise(measured(tmp_path), None, PLAIN) == ""
    chosen = {name: str(getattr(OWN, name)) for name in ("system", "instruction", "excerpts")}
    assert measured_otherwise(measured(tmp_path, 208, **chosen), PLAIN, OWN) == ""


@pytest.mark.parametrize("name", CHANGES)
def test_an_evaluation_with_the_models_own_prompts_is_not_of_changed_ones(name, tmp_path):
    said = measured_otherwise(measured(tmp_path, 208), OWN, replace(OWN, **{name: CHANGES[name]}))
    assert [other for other in CHANGES if f"`{other}`" in said] == [name]
    assert f"`{name}` `{json.dumps(getattr(OWN, name))}`" in said


@pytest.mark.parametrize("name", CHANGES)
def test_an_evaluation_with_prompts_of_its_own_is_not_of_the_models(name, tmp_path):
    options = {"max_length": 208} | {name: CHANGES[name]}
    said = measured_otherwise(measured(tmp_path, **options), OWN, OWN)
    assert [other for other in CHANGES if f"`{other}`" in said] == [name]
    assert measured_otherwise(measured(tmp_path, **options), OWN, replace(OWN, **{name: CHANGES[name]})) == ""


def test_an_empty_text_that_was_asked_for_is_not_the_models_own(tmp_path):
    said = measured_otherwise(measured(tmp_path, 208, system="", instruction=""), OWN, OWN)
    assert said.endswith(": `system` the model's own, `instruction` none.")
