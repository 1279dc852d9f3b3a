"""The configs that are shipped, and what docs/configuration.md says of configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.aot.advice import divides_the_model
from prorank_jax.aot.chips import ACCELERATORS, CHIPS, accelerator_of, parse_topology
from prorank_jax.aot.estimate import estimate_step
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.config import MeshOptions, RunConfig
from prorank_jax.config_files import config_from_flat, config_to_dict, field_paths, flatten, load_config
from prorank_jax.flops import layer_weights
from prorank_jax.models.attention import check_head_size
from prorank_jax.stage_plan import planned_runs

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FOR_TPUS = sorted((ROOT / "configs" / "tpu").glob("*.yaml"))
FOR_GPUS = sorted((ROOT / "configs" / "gpu").glob("*.yaml"))
H100 = CHIPS["h100"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_config_is_accepted_and_survives_being_written(file):
    check(load_config(file))


def test_the_recipe_for_a_cpu_serves_both_stages_and_its_results_can_be_compared():
    first, second = planned_runs(["--stage", "both", "--config", str(ROOT / "configs" / "cpu.yaml")])
    check(first)
    check(second)
    assert (first.data.system, first.data.max_length) == (second.data.system, second.data.max_length)


def test_the_command_of_stage_2_starts_from_what_that_of_stage_1_makes():
    """The commands in the comments of both files."""
    first, second = (planned_runs(_command(ROOT / "configs" / f"stage{n}.yaml"))[0] for n in (1, 2))
    assert (first.stage, second.stage) == (1, 2)
    assert (
        first.output_dir == second.model.source == load_config(ROOT / "configs" / "stage2.yaml").model.source
    )


def _command(file: Path) -> list[str]:
    """The arguments of the command in a config's comment, from wherever the tests run."""
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("#   python launch/")]
    return [str(ROOT / word) if word.startswith("configs/") else word for word in line.split()[3:]]


def check(config: RunConfig) -> None:
    assert config_from_flat(flatten(config_to_dict(config))) == config
    assert config.optimizer.warmup_steps < config.train.steps * config.grpo.updates_per_rollout


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("file", FOR_TPUS, ids=lambda file: file.stem)
def test_configs_for_tpus_serve_both_stages_and_fit_their_slice(file, stage):
    config = load_config(file, {"stage": stage})
    check(config)
    topology = parse_topology(accelerator_of(file))
    shape = resolve_shape(config.model.source)
    ways = config.mesh.data * config.mesh.fsdp
    assert ways * config.mesh.tensor == topology.devices
    assert divides_the_model(shape, config.mesh.fsdp, config.mesh.tensor)
    assert config.train.batch_size // config.train.accumulation % ways == 0
    assert config.probe.batch_size % ways == 0
    assert config.model.compute_dtype == "bfloat16"
    name = file.stem.rpartition("_")[0]
    assert name in config.model.source.lower()
    assert config.output_dir == f"runs/{file.stem}_stage{stage}"


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("file", FOR_GPUS, ids=lambda file: file.stem)
def test_configs_for_gpus_serve_both_stages_and_should_fit_one_h100(file, stage):
    config = load_config(file, {"stage": stage})
    check(config)
    shape = resolve_shape(config.model.source)
    check_head_size(config.model.attention, shape.head_dim)
    assert (config.model.attention, config.model.compute_dtype) == ("cudnn", "bfloat16")
    assert config.mesh == MeshOptions()  # one device
    name, _, machine = file.stem.rpartition("_")
    assert name in config.model.source.lower()
    assert machine == "h100"
    assert config.output_dir == f"runs/{file.stem}_stage{stage}"
    estimate = estimate_step(config, str(stage), shape, H100, {"data": 1, "fsdp": 1, "tensor": 1})
    weights = shape.layers * layer_weights(shape) + shape.vocab_size * shape.dim
    reference = 4 * weights if stage == 2 and config.ranking.kl_coefficient else 0
    assert estimate.bytes + reference < H100.device_bytes


def test_every_model_has_a_config_for_a_gpu():
    def models(files: list[Path]) -> set[str]:
        return {file.stem.rpartition("_")[0] for file in files}

    assert models(FOR_GPUS) == models(FOR_TPUS)


def test_there_is_a_config_for_each_model_and_slice():
    slices = [name for name in ACCELERATORS if parse_topology(name).chip.platform == "tpu"]
    assert len(FOR_TPUS) == 3 * len(slices)


def test_each_shipped_config_writes_to_a_folder_of_its_own():
    folders = [load_config(file).output_dir for file in CONFIGS]
    folders += [
        load_config(file, {"stage": stage}).output_dir for file in (*FOR_TPUS, *FOR_GPUS) for stage in (1, 2)
    ]
    assert len(CONFIGS) >= 3
    assert len(set(folders)) == len(folders)


def test_a_page_describes_every_field_with_its_default():
    defaults = flatten(config_to_dict(config_from_flat({})))
    lines = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines()
    described = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert set(field_paths()) <= set(described)
    spelled = {"": '""', "None": "null"}
    shown = {name: spelled.get(str(defaults[name]), defaults[name]) for name in field_paths()}
    wrong = [name for name in shown if f"| `{name}` | `{shown[name]}` |" not in described[name]]
    assert not wrong, f"docs/configuration.md: another default than config.py for {', '.join(wrong)}"
