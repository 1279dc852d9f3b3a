"""The command line of launch/probe.py: the option that is no field of a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax import model_probe
from tests.cpu.tiny_run import load_launcher


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (["--data_folder", "prompts"], Path("prompts")),
        (["--data_folder=prompts=1"], Path("prompts=1")),
        ([], None),
    ],
    ids=["two words", "one word", "none"],
)
def test_the_folder_of_the_prompts(given, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        model_probe, "probe_model", lambda config, folder: asked.append((config.output_dir, folder))
    )
    assert load_launcher("probe").main(["--output_dir=out", *given, "--train.seed", "3"]) == 0
    assert asked == [("out", folder)]


@pytest.mark.parametrize("given", [["--data_folder"], ["--data_folder="]])
def test_a_folder_without_a_name_is_refused(given, capsys):
    assert load_launcher("probe").main(given) == 2
    assert "--data_folder has no value; write --data_folder FOLDER" in capsys.readouterr().err


def test_the_help_says_which_folder_is_written_to(tmp_path, monkeypatch, capsys):
    """Not that of a config file, as for a run."""
    (tmp_path / "run.yaml").write_text("output_dir: runs/mine")
    asked = []
    monkeypatch.setattr(model_probe, "probe_model", lambda config, _: asked.append(config.output_dir))
    probe = load_launcher("probe").main
    assert probe(["--config", str(tmp_path / "run.yaml")]) == 0
    assert probe(["--help"]) == 0
    assert f"which is {asked[0]} unless --output_dir names it" in capsys.readouterr().out
