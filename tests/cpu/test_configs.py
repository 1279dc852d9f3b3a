"""The configs that are shipped, and what README.md says of configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.config_files import config_from_flat, config_to_dict, field_paths, flatten, load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_config_is_accepted_and_survives_being_written(file):
    config = load_config(file)
    assert config_from_flat(flatten(config_to_dict(config))) == config
    assert config.optimizer.warmup_steps < config.train.steps * config.grpo.updates_per_rollout


def test_each_shipped_config_writes_to_a_folder_of_its_own():
    folders = [load_config(file).output_dir for file in CONFIGS]
    assert len(CONFIGS) >= 3
    assert len(set(folders)) == len(folders)


def test_readme_describes_every_field_with_its_default():
    defaults = flatten(config_to_dict(config_from_flat({})))
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    described = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert set(field_paths()) <= set(described)
    shown = {name: '""' if defaults[name] == "" else defaults[name] for name in field_paths()}
    wrong = [name for name in shown if f"| `{name}` | `{shown[name]}` |" not in described[name]]
    assert not wrong, f"README.md: another default than config.py for {', '.join(wrong)}"
