"""A probe tells of one model, and only of a finished one keeps others away."""

from __future__ import annotations

import io
import json
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from rich.console import Console

from prorank_jax import model_probe
from prorank_jax.config import MeshOptions
from prorank_jax.config_files import load_config
from prorank_jax.model_probe import PROBE_FILE, probe_model
from prorank_jax.probe import ProbeResult
from prorank_jax.sharding import make_mesh
from tests.cpu.run_like_folder import WEIGHTS, fingerprint_of_before, write_run_folder

RESULT = ProbeResult(0, 2, 0.5, 0.5, 0.5, 0.5, [0.0, 1.0], [0, 1])


@pytest.fixture(name="model")
def folder_of_a_model(tmp_path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def probe(model: Path, **fields) -> dict:
    named = {"model.source": str(model), "output_dir": str(model.parent / "out")}
    return probe_model(load_config(None, named | fields), console=Console(file=io.StringIO()))


def test_a_model_that_changes_while_it_is_loaded_is_refused_and_can_be_probed_again(model, monkeypatch):
    def change(*_: object, **__: object) -> ProbeResult:
        (model / "model.safetensors").write_bytes(b"of the next checkpoint")
        return RESULT

    run = Mock(mesh=make_mesh(MeshOptions(), jax.devices()[:1]), load_initial_params=change)
    monkeypatch.setattr(model_probe, "prepare_run", lambda *_: run)
    monkeypatch.setattr(model_probe, "run_probe", lambda *_, **__: RESULT)
    with pytest.raises(ValueError, match="model': was written to while it was loaded; run this again"):
        probe(model)
    assert not (model.parent / "out" / PROBE_FILE).exists()
    content = probe(model)
    assert content == json.loads((model.parent / "out" / PROBE_FILE).read_text())
    assert content["model_fingerprint"] == model_probe.model_identity(str(model))["model_fingerprint"]


def test_a_model_that_changes_while_its_loaded_weights_answer_is_the_one_before(model, monkeypatch):
    """As a run that trains on does with each checkpoint."""
    before = model_probe.model_identity(str(model))["model_fingerprint"]

    def answer(*_: object, **__: object) -> ProbeResult:
        (model / "model.safetensors").write_bytes(b"of the next checkpoint")
        return RESULT

    run = Mock(mesh=make_mesh(MeshOptions(), jax.devices()[:1]))
    monkeypatch.setattr(model_probe, "prepare_run", lambda *_: run)
    monkeypatch.setattr(model_probe, "run_probe", answer)
    assert probe(model)["model_fingerprint"] == before


def test_a_probe_without_a_result_leaves_its_folder_to_the_corrected_one(model, monkeypatch):
    def refuse(config, *_: object) -> ProbeResult:
        if config.train.seed:
            raise ValueError("train.seed")
        return RESULT

    monkeypatch.setattr(model_probe, "_probe", refuse)
    with pytest.raises(ValueError, match=r"train\.seed"):
        probe(model, **{"train.seed": 1})
    assert probe(model)["auc"] == 0.5
    with pytest.raises(ValueError, match=r"belongs to another probe \(train\.seed is 0 there, 1 here\)"):
        probe(model, **{"train.seed": 1})


def test_a_probe_taken_before_fields_of_the_data_came_had_their_defaults(model, monkeypatch):
    monkeypatch.setattr(model_probe, "_probe", lambda *_: RESULT)
    taken, file = probe(model), model.parent / "out" / model_probe.SETTINGS_FILE
    settings = json.loads(file.read_text())
    later = ("data.max_queries", "data.negatives_run", "data.negatives_from")
    file.write_text(json.dumps({name: value for name, value in settings.items() if name not in later}))
    with pytest.raises(ValueError, match=r"another probe \(data\.negatives_from is 1 there, 2 here\)"):
        probe(model, **{"data.negatives_from": 2})
    assert probe(model) == taken
    assert json.loads(file.read_text()) == settings


def test_a_probe_that_an_earlier_version_took_of_a_run_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(model_probe, "_probe", lambda *_: RESULT)
    run = write_run_folder(tmp_path / "run")
    probe(run)
    for name in (PROBE_FILE, model_probe.SETTINGS_FILE):
        file = tmp_path / "out" / name
        before = json.loads(file.read_text()) | {"model_fingerprint": fingerprint_of_before(run)}
        file.write_text(json.dumps(before))
    assert probe(run)["model_fingerprint"] == fingerprint_of_before(run)
    (run / WEIGHTS).write_text("others")
    with pytest.raises(ValueError, match="belongs to another probe"):
        probe(run)
