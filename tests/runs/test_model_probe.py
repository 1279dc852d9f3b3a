"""launch/probe.py on a tiny model: what it writes, and whose folders it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

import prorank_jax.setup
from prorank_jax.model_probe import PROBE_FILE
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny_run import command_line, load_launcher, tiny_fields, write_collection, write_model_folder


@pytest.fixture(name="fields")
def fields_of_a_probe(tmp_path, monkeypatch) -> dict:
    monkeypatch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    return tiny_fields(model, collection, tmp_path / "probed") | {"probe.examples": 4}


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("shared_programs")
def test_a_probe_can_be_repeated_but_not_written_over(fields, tmp_path, capsys):
    probe = load_launcher("probe").main
    assert probe(command_line(fields)) == 0
    first = json.loads((tmp_path / "probed" / PROBE_FILE).read_text())
    assert (first["examples"], len(first["scores"])) == (4, 4)
    assert first["model"] == fields["model.source"]
    again = fields | {"model.source": f"{fields['model.source']}/", "probe.every": 3}
    assert probe(command_line(again)) == 0
    assert json.loads((tmp_path / "probed" / PROBE_FILE).read_text()) == first

    before = content_of(tmp_path / "probed")
    other = write_model_folder(tmp_path / "other")
    capsys.readouterr()
    for change, named in (
        ({"model.source": str(other)}, "model is "),
        ({"train.seed": 9}, "train.seed is 0 there, 9 here"),
        ({"data.system": "Judge."}, "data.system is "),
        ({"model.compute_dtype": "bfloat16"}, "model.compute_dtype is "),
    ):
        assert probe(command_line(fields | change)) == 2
        said = capsys.readouterr().err
        assert "probed': belongs to another probe (" in said
        assert named in said
    assert content_of(tmp_path / "probed") == before


@pytest.mark.usefixtures("shared_programs")
def test_a_config_of_stage_2_adds_the_auc_within_queries(fields, tmp_path):
    del fields["data.buckets"]
    probe, of_stage = load_launcher("probe").main, {}
    for stage in (1, 2):
        folder = tmp_path / str(stage)
        assert probe(command_line(fields | {"stage": stage, "output_dir": str(folder)})) == 0
        of_stage[stage] = json.loads((folder / PROBE_FILE).read_text())
    assert (of_stage[1]["query_auc"], of_stage[1]["query_aucs"]) == (None, [])
    assert len(of_stage[2]["query_aucs"]) > 1
    assert {**of_stage[2], "query_auc": None, "query_aucs": []} == of_stage[1]


def test_other_folders_are_left_alone(fields, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    probe = load_launcher("probe").main
    assert probe(command_line(fields | {"output_dir": str(tmp_path / "thesis")})) == 2
    assert "thesis': holds 'chapter.txt' but no probe_settings.json" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    assert probe(command_line(fields | {"output_dir": "gs://bucket/probe"})) == 2
    assert "output_dir='gs://bucket/probe': is a URL; name a folder" in capsys.readouterr().err
