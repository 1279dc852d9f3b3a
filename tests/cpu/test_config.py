"""A run's configuration: what is read, and that every mistake is named before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from prorank_jax.config import DataOptions, OptimizerOptions, RunConfig, TrainOptions
from prorank_jax.config_files import (
    config_from_flat,
    config_to_dict,
    field_paths,
    flatten,
    load_config,
    parse_overrides,
)


def _write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _load_text(folder: Path, text: str) -> RunConfig:
    return load_config(_write(folder, text))


def test_defaults_are_valid_and_an_empty_file_gives_them(tmp_path: Path) -> None:
    assert load_config() == RunConfig()
    assert _load_text(tmp_path, "") == RunConfig()
    assert _load_text(tmp_path, "# nothing\n") == RunConfig()


def test_file_then_overrides(tmp_path: Path) -> None:
    path = _write(tmp_path, "output_dir: runs/a\ntrain: {steps: 7, seed: 3}\ndata:\n  buckets: [64, 224]\n")
    config = load_config(path, parse_overrides(["--train.steps", "9", "--data.system=Be brief."]))
    assert (config.output_dir, config.train.steps, config.train.seed) == ("runs/a", 9, 3)
    assert config.data.buckets == (64, 224)
    assert config.data.system == "Be brief."


BOTH_STAGES = """
train: {steps: 7, batch_size: 4}
stage1: {output_dir: runs/a, train: {steps: 9}}
stage2: {output_dir: runs/b, train: {accumulation: 2}, optimizer: {learning_rate: 3e-6}}
"""


def test_one_file_serves_both_stages(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(BOTH_STAGES)
    first, second = load_config(file), load_config(file, {"stage": 2})
    assert (first.output_dir, first.train.steps, first.train.accumulation) == ("runs/a", 9, 1)
    assert (second.output_dir, second.train.steps, second.train.accumulation) == ("runs/b", 7, 2)
    assert first.train.batch_size == second.train.batch_size == 4
    assert second.optimizer.learning_rate == 3e-6
    assert load_config(file, {"stage": 2, "train.accumulation": 4}).train.accumulation == 4
    file.write_text("stage: 2\n" + BOTH_STAGES)
    assert load_config(file) == second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage1: {train: {stepz: 3}}", r"unknown field train\.stepz"),
        ("stage2: {train: {steps: x}}", r"train\.steps='x'.*type int"),
        ("stage2: {stage: 1}", r"stage2\.stage=1"),
        ("stage3: {train: {steps: 3}}", "unknown field stage3"),
        ("stage1: 3", "stage1=3"),
    ],
)
def test_mistakes_in_a_stages_section_are_named_for_either_stage(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    for stage in (1, 2):
        with pytest.raises(ValueError, match=said):
            load_config(file, {"stage": stage})


@pytest.mark.parametrize(("stage", "updates"), [(1, 21), (2, 7)])
def test_only_stage_1_makes_several_updates_a_step(stage: int, updates: int) -> None:
    fields = {"stage": stage, "train.steps": 7, "grpo.updates_per_rollout": 3}
    assert load_config(None, fields).updates == updates


@pytest.mark.parametrize("written", ["1e-5", "1.0e-5", "0.00001", "'1e-5'"])
def test_floats_in_any_spelling(tmp_path: Path, written: str) -> None:
    assert _load_text(tmp_path, f"optimizer: {{learning_rate: {written}}}").optimizer.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("written", "wanted"), [("1e-5", 1e-5), ("-3", -3.0), ("0.5", 0.5), ("null", None), ("~", None)]
)
def test_a_number_that_may_be_missing(tmp_path: Path, written: str, wanted: float | None) -> None:
    read = _load_text(tmp_path, f"data: {{source: a.jsonl, relevant_score: {written}}}").data.relevant_score
    assert read == wanted
    assert type(read) is type(wanted)


def test_an_integer_is_a_float_where_a_float_is_wanted(tmp_path: Path) -> None:
    weight_decay = _load_text(tmp_path, "optimizer: {weight_decay: 1}").optimizer.weight_decay
    assert weight_decay == 1.0
    assert isinstance(weight_decay, float)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {stepz: 3}", "unknown field train.stepz=3; did you mean train.steps?"),
        ("trian: {steps: 3}", "unknown field trian.steps=3; did you mean train.steps?"),
        ("trian: {}", "unknown field trian={}"),
        ("qqqq: 3", "unknown field qqqq=3; the fields are stage, output_dir"),
        ("train: 3", "train=3 is a section; name a field of it, e.g. train.steps"),
        ("train: {steps: three}", "train.steps='three' has the wrong type; give a value of type int"),
        ("train: {steps: 3.0}", "train.steps=3.0 has the wrong type"),
        ("train: {steps: true}", "train.steps=True has the wrong type"),
        ("train: {steps: null}", "train.steps=None has the wrong type"),
        ("train: {steps: {}}", "train.steps={} has the wrong type"),
        (f"train: {{steps: 1{'0' * 400}}}", "has the wrong type"),
        ("data: {instruction: null}", "data.instruction=None has the wrong type; give a value of type str"),
        ("data: {buckets: 224}", "data.buckets=224 has the wrong type; give a value of type list of int"),
        ("data: {buckets: [64.5, 224]}", "data.buckets=[64.5, 224] has the wrong type"),
        ("data: {buckets: [true, 224]}", "data.buckets=[True, 224] has the wrong type"),
        ("optimizer: {learning_rate: fast}", "optimizer.learning_rate='fast' has the wrong type"),
        ("grpo: {mask_tied_groups: 1}", "grpo.mask_tied_groups=1 has the wrong type"),
        (
            "data: {relevant_score: high}",
            "data.relevant_score='high' has the wrong type; give a value of type float",
        ),
        ("data: {relevant_score: true}", "data.relevant_score=True has the wrong type"),
        ("output_dir: 2024-01-01", "has the wrong type"),
        ("- 1\n- 2", "a config is a mapping of sections, not list"),
        ("just text", "a config is a mapping of sections, not str"),
        ("train: {steps: 3", "not readable as YAML"),
        ("train:\n\tsteps: 3", "not readable as YAML"),
        ("train: {steps: 3}\ntrain: {seed: 1}", "train is given twice"),
        ("train: {steps: 3, steps: 4}", "steps is given twice"),
        ("data: &d {source: demo}\ntrain: *d", "the alias *d is not allowed"),
        ("train: &t {a: *t}", "the alias *t is not allowed"),
        ("output_dir: !!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("output_dir: !secret x", "not readable as YAML"),
        ("output_dir: 2024-13-45", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("? [a]\n: 3", "not readable as YAML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared below
        _load_text(tmp_path, text)
    assert said in str(raised.value)
    assert "run.yaml" in str(raised.value)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(ValueError, match="not readable as YAML"):
        load_config(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match="no such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["train:", "train: null", "train: {}"])
def test_an_empty_section_keeps_the_defaults(tmp_path: Path, text: str) -> None:
    assert _load_text(tmp_path, text) == RunConfig()


def test_anchors_without_aliases_are_harmless(tmp_path: Path) -> None:
    assert _load_text(tmp_path, "train: &t {steps: 3}").train.steps == 3


@pytest.mark.parametrize(
    ("flat", "said"),
    [
        ({"stage": 3}, "stage=3"),
        ({"output_dir": ""}, "output_dir=''"),
        ({"model.source": ""}, "model.source=''"),
        ({"model.compute_dtype": "float16"}, "choose one of float32, bfloat16"),
        ({"model.remat": "all"}, "model.remat='all'"),
        ({"data.max_queries": -1}, "data.max_queries=-1: must be at least 0"),
        ({"data.max_length": 8}, "data.max_length=8: must be at least 16"),
        ({"data.buckets": [128, 64, 224]}, "ascending"),
        ({"data.buckets": [64, 128]}, "the last bucket must equal data.max_length=224"),
        ({"data.hard_negatives": 1.5}, "data.hard_negatives=1.5"),
        (
            {"data.relevant_score": 0.5},
            "data.relevant_score=0.5: only pairs of a .jsonl file have such scores",
        ),
        ({"data.relevant_score": float("nan"), "data.source": "a.jsonl"}, "data.relevant_score=nan: must be"),
        ({"data.negatives_from": 0}, "data.negatives_from=0: must be at least 1"),
        ({"data.negatives_from": 51}, "data.negatives_from=51: is behind data.negative_depth=50"),
        (
            {"data.negatives_run": "a.trec", "data.hard_negatives": 0.1},
            "data.negatives_run='a.trec': data.hard_negatives=0.1 takes none from it; raise that",
        ),
        ({"train.steps": 0}, "train.steps=0: must be at least 1"),
        ({"train.seed": 2**32}, "train.seed=4294967296"),
        ({"train.seed": -1}, "train.seed=-1"),
        ({"train.batch_size": 3}, "an even number"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate=nan"),
        ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate=inf"),
        ({"optimizer.weight_decay": float("inf")}, "optimizer.weight_decay=inf"),
        ({"optimizer.b1": 1.0}, "optimizer.b1=1.0"),
        ({"optimizer.final_fraction": -0.1}, "optimizer.final_fraction=-0.1"),
        ({"grpo.group_size": 1}, "grpo.group_size=1"),
        ({"grpo.correct_weight": 0.0, "grpo.format_weight": 0.0}, "one reward weight must be above 0"),
        ({"mesh.data": -1, "mesh.fsdp": -1}, "at most one axis may be -1"),
        ({"mesh.tensor": 0}, "axis sizes are -1 or at least 1"),
        ({"checkpoint.keep": 0}, "checkpoint.keep=0"),
        ({"probe.examples": 3}, "probe.examples=3"),
        ({"train.stepz": 3}, "did you mean train.steps?"),
        ({"train.steps": "3"}, "train.steps='3' has the wrong type"),
        ({"optimizer.learning_rate": 10**400}, "has the wrong type"),
    ],
)
def test_values_that_cannot_work_are_named(flat: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared below
        config_from_flat(flat)
    assert said in str(raised.value)


def test_sections_check_themselves_when_built_directly() -> None:
    with pytest.raises(ValueError, match=r"train\.steps=0"):
        TrainOptions(steps=0)
    with pytest.raises(ValueError, match=r"data\.buckets"):
        DataOptions(buckets=(64,))
    assert TrainOptions(steps=10**400).steps == 10**400
    with pytest.raises(ValueError, match=r"optimizer\.eps"):
        OptimizerOptions(eps=0.0)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--train.steps", "100"], {"train.steps": 100}),
        (["--train.steps=100"], {"train.steps": 100}),
        (["--train.steps", "010"], {"train.steps": 10}),
        (["--optimizer.learning_rate", "1e-5"], {"optimizer.learning_rate": 1e-5}),
        (["--optimizer.learning_rate=2"], {"optimizer.learning_rate": 2.0}),
        (["--data.relevant_score", "1e-3"], {"data.relevant_score": 1e-3}),
        (["--data.relevant_score=-2"], {"data.relevant_score": -2.0}),
        (["--data.relevant_score=null"], {"data.relevant_score": None}),
        (["--data.buckets", "[64, 224]"], {"data.buckets": [64, 224]}),
        (["--data.buckets=[]"], {"data.buckets": []}),
        (["--grpo.mask_tied_groups", "false"], {"grpo.mask_tied_groups": False}),
        (["--data.instruction=a=b: c"], {"data.instruction": "a=b: c"}),
        (["--data.instruction="], {"data.instruction": ""}),
        (["--data.instruction", "null"], {"data.instruction": "null"}),
        (["--mesh.fsdp", "-1"], {"mesh.fsdp": -1}),
        (["--train.steps", "1", "--train.steps", "2"], {"train.steps": 2}),
        ([], {}),
    ],
)
def test_override_forms(arguments: list[str], wanted: dict[str, Any]) -> None:
    assert parse_overrides(arguments) == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.steps", "3"], "'train.steps' is no option; write --section.field VALUE"),
        (["--train.steps"], "--train.steps has no value"),
        (["--train.stepz", "3"], "unknown field train.stepz='3'; did you mean train.steps?"),
        (["--train.batch-size", "4"], "did you mean train.batch_size?"),
        (["--train", "3"], "train='3' is a section"),
        (["--train.steps", "many"], "train.steps='many' has the wrong type; give a value of type int"),
        (["--train.steps", "1e3"], "train.steps='1e3' has the wrong type"),
        (["--train.steps="], "train.steps='' has the wrong type"),
        (["--train.steps", "1:30"], "train.steps='1:30' has the wrong type"),
        (
            ["--data.relevant_score", "high"],
            "relevant_score='high' has the wrong type; give a value of type float",
        ),
        (["--data.buckets", "64,224"], "data.buckets='64,224' has the wrong type"),
        (["--data.buckets", "[64"], "data.buckets='[64' has the wrong type"),
        (["--grpo.mask_tied_groups", "maybe"], "has the wrong type; give a value of type bool"),
        (["--train.steps", "9" * 5000], "has the wrong type"),
    ],
)
def test_mistakes_on_the_command_line_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared below
        parse_overrides(arguments)
    assert said in str(raised.value)
    assert str(raised.value).startswith("command line")


def test_stage_three_is_refused_from_the_command_line() -> None:
    with pytest.raises(ValueError, match="stage=3"):
        load_config(None, parse_overrides(["--stage", "3"]))


def test_a_config_survives_yaml_and_back() -> None:
    config = config_from_flat(
        {
            "data.buckets": [64, 224],
            "optimizer.learning_rate": 1e-5,
            "data.instruction": "a: b\nc",
            "mesh.fsdp": 2,
            "data.source": "a.jsonl",
            "data.relevant_score": 0.1,
        }
    )
    written = yaml.safe_dump(config_to_dict(config))
    assert config_from_flat(flatten(yaml.safe_load(written))) == config
    assert set(flatten(config_to_dict(config))) == set(field_paths())
