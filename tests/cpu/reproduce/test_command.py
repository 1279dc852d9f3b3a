"""The ablation's order of work: resumed after any stop, refused where it does not belong, named in full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from prorank_jax.config_files import load_config
from prorank_jax.launching import Interrupted
from prorank_jax.model_identity import FINGERPRINT
from prorank_jax.reproduce import command, place
from prorank_jax.reproduce.command import reproduce
from prorank_jax.reproduce.command_line import parse_options
from prorank_jax.reproduce.plan import Plan
from prorank_jax.reproduce.rows import BASE, BOTH, STAGE1, STAGE2
from tests.cpu.disk_order import DiskOrder
from tests.cpu.reproduce.stand_in_launchers import MODEL_STEPS, PICTURE, StandIns, arguments, work
from tests.cpu.run_like_folder import WEIGHTS, fingerprint_of_before, write_run_folder
from tests.cpu.tiny_run import write_model_folder

pytest.importorskip("ranx")

SEED_STEPS = ["tpu_train.py", *MODEL_STEPS] * 3


def test_each_model_is_trained_probed_and_measured_once(tmp_path):
    run, content, said = work(tmp_path / "out", "--seeds", "0", "1")
    assert run.launchers == [*MODEL_STEPS, *SEED_STEPS, *SEED_STEPS]
    assert [row["row"] for row in content["rows"]] == [BASE, STAGE1, STAGE2, BOTH]
    assert content["missing"] == []
    assert "[1/7] base model: to do: probe, evaluate" in said
    assert "[7/7] both stages, seed 1: to do: train, probe, evaluate; done already: train stage 1" in said
    assert (tmp_path / "out" / "ablation.png").read_bytes() == PICTURE
    assert (tmp_path / "out" / "learning.png").read_bytes() == PICTURE * 6
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == content
    again, same, said = work(tmp_path / "out", "--seeds", "0", "1")
    assert again.ran == []
    assert same == content
    assert said.count("done already\n") == 7


def test_both_stages_start_where_stage_1_of_the_same_seed_ended(tmp_path):
    work(tmp_path / "out", "--seeds", "3")
    configs = {
        row: load_config(tmp_path / "out" / row / "seed3" / "run.yaml") for row in (STAGE1, STAGE2, BOTH)
    }
    assert configs[STAGE1].model.source == configs[STAGE2].model.source == "base"
    assert configs[BOTH].model.source == configs[STAGE1].output_dir
    assert [configs[row].stage for row in configs] == [1, 2, 2]
    assert {config.train.seed for config in configs.values()} == {3}
    assert {(c.data.source, c.data.split, c.data.probe_split) for c in configs.values()} == {
        ("demo", "train", "dev")
    }


def test_all_models_answer_the_same_prompts_and_rank_the_same_candidates(tmp_path):
    run, _, _ = work(tmp_path / "out", "--seeds", "0", "1")
    probes = [load_config(file) for file in sorted((tmp_path / "out").rglob("probe.yaml"))]
    assert len(probes) == 7
    assert len({config.model.source for config in probes}) == 7
    assert len({(config.data, config.train, config.probe) for config in probes}) == 1
    own = ("--model=", "--output_dir=")
    settings = {
        tuple(part for part in given if not part.startswith(own))
        for name, given in run.ran
        if name == "evaluate.py"
    }
    assert len(settings) == 1


@pytest.mark.parametrize("stop_at", [0, 3, 8])
def test_a_stopped_ablation_goes_on_where_it_was(stop_at, tmp_path):
    whole, content, _ = work(tmp_path / "whole", "--seeds", "0")
    first = StandIns(stop_at)
    with pytest.raises(Interrupted):
        work(tmp_path / "out", "--seeds", "0", run=first)
    if stop_at >= len(MODEL_STEPS):
        partial = json.loads((tmp_path / "out" / "ablation.json").read_text())
        missing = ["stage 1 only, seed 0", "stage 2 only, seed 0", "both stages, seed 0"]
        assert partial["missing"] == missing[(stop_at - len(MODEL_STEPS)) // 3 :]
        table = (tmp_path / "out" / "ablation.md").read_text()
        assert f"Missing:** {', '.join(partial['missing'])}." in table
    second, resumed, _ = work(tmp_path / "out", "--seeds", "0")
    assert first.launchers + second.launchers == whole.launchers
    assert [row | {"row": ""} for row in resumed["rows"]] == [row | {"row": ""} for row in content["rows"]]


def test_more_seeds_cost_only_theirs(tmp_path):
    work(tmp_path / "out", "--seeds", "0")
    run, content, _ = work(tmp_path / "out", "--seeds", "0", "1")
    assert run.launchers == SEED_STEPS
    assert [row["seeds"] for row in content["rows"]] == [[], [0, 1], [0, 1], [0, 1]]


def test_seeds_that_are_there_stay_in_the_table(tmp_path):
    work(tmp_path / "out", "--seeds", "2", "--only", "stage2")
    run, content, _ = work(tmp_path / "out", "--seeds", "1", "--only", "stage2")
    assert run.launchers == SEED_STEPS[:3]
    assert [row["seeds"] for row in content["rows"]] == [[1, 2]]
    assert "stage 1 only, seed 2" in content["missing"]
    with pytest.raises(ValueError, match=r"seed1.*train\.steps is 400 there, 9 here"):
        work(tmp_path / "out", "--seeds", "0", "--stage2.train.steps", "9")


def test_probes_of_another_dtype_are_not_mixed_in(tmp_path):
    out, other = tmp_path / "out", ["--stage1.model.compute_dtype", "bfloat16"]
    work(out, "--seeds", "0", "--only", "base")
    with pytest.raises(ValueError, match=r"probe: model\.compute_dtype is 'float32' there, 'bfloat16' here"):
        work(out, "--seeds", "0", *other)
    settings = json.loads((out / place.SETTINGS_FILE).read_text())
    del settings["probe: model.compute_dtype"]  # as an earlier version left it
    (out / place.SETTINGS_FILE).write_text(json.dumps(settings))
    work(out, "--seeds", "0", "--only", "base", *other)


def test_only_some_rows_with_what_they_need(tmp_path):
    run, content, _ = work(tmp_path / "out", "--seeds", "0", "--only", "both")
    assert run.launchers == ["tpu_train.py", "tpu_train.py", *MODEL_STEPS]
    assert content["missing"] == ["base model", "stage 1 only, seed 0", "stage 2 only, seed 0"]
    run, content, _ = work(tmp_path / "out", "--seeds", "0", "--only", "base", "stage1")
    assert run.launchers == [*MODEL_STEPS, *MODEL_STEPS]
    assert [row["row"] for row in content["rows"]] == [BASE, STAGE1, BOTH]  # what is there stays in the table


def test_the_best_seed_is_exported_once(tmp_path):
    run, _, said = work(tmp_path / "out", "--seeds", "1", "2", "0", "--export")
    launcher, given = run.ran[-1]
    assert launcher == "export_hf.py"
    assert given[1] == str(tmp_path / "out" / BOTH / "seed2" / "run")
    assert "best of 3" in said
    assert work(tmp_path / "out", "--seeds", "1", "2", "0", "--export")[0].ran == []
    run, _, said = work(tmp_path / "other", "--seeds", "0", "--only", "base", "--export")
    assert "export_hf.py" not in run.launchers
    assert "not exported: both stages, seed 0 missing" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--model", "other"], "model is 'base' there, 'other' here"),
        (["--test_split", "test"], "test_split is 'dev' there, 'test' here"),
        (["--top_k", "5"], "top_k is 20 there, 5 here"),
        (["--queries", "2"], "queries is None there, 2 here"),
        (["--stage1.probe.examples", "32"], "probe: probe.examples is 64 there, 32 here"),
        (["--stage1.train.steps", "47"], "train.steps is 64 there, 47 here"),
        (["--stage2.optimizer.learning_rate", "1"], "optimizer.learning_rate is 0.0001 there, 1.0 here"),
    ],
)
def test_a_folder_of_another_ablation_is_refused_and_named(change, said, tmp_path):
    work(tmp_path / "out", "--seeds", "0")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    run = StandIns()
    with pytest.raises(ValueError, match=said):
        work(tmp_path / "out", "--seeds", "0", *change, run=run)
    assert run.ran == []
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            ["--max_length", "100"],
            "data.max_length=100: too short for the prompt's fixed text; give at least",
        ),
        (
            ["--max_length", "208", "--stage1.data.max_length", "60", "--stage1.data.buckets", "[60]"],
            "=60: too short",
        ),
        (["--max_length", "999"], "max_length=999: .* has 256 positions"),
    ],
    ids=["evaluation", "stage 1", "positions"],
)
def test_a_length_that_cannot_work_leaves_the_folder_to_the_corrected_command(
    wrong, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "check_recipes", place.check_recipes)
    model, run = write_model_folder(tmp_path / "model"), StandIns()
    given = ["--model", str(model), "--data.max_length", "208", "--stage1.data.buckets", "[208]"]
    given += ["--only", "base"]
    with pytest.raises(ValueError, match=said):
        work(tmp_path / "out", *given, *wrong, run=run)
    assert run.ran == []
    assert work(tmp_path / "out", *given)[0].launchers == MODEL_STEPS


@pytest.mark.parametrize("row", ["stage2", "both"])
def test_losses_that_the_data_cannot_feed_are_refused_before_any_model_is_measured(row, tmp_path):
    run = StandIns()
    with pytest.raises(ValueError, match=r"ranking\.losses='margin_mse=1'.*needs teacher scores, and demo"):
        work(tmp_path / "out", "--stage2.ranking.losses", "margin_mse=1", "--only", "base", row, run=run)
    assert run.ran == []
    assert not (tmp_path / "out").exists()


def test_a_recipe_may_change_while_no_run_of_it_is_there(tmp_path):
    work(tmp_path / "out", "--seeds", "0", "--only", "base", "stage1")
    run, _, _ = work(
        tmp_path / "out", "--seeds", "0", "--stage2.train.steps", "99", "--stage2.checkpoint.every", "5"
    )
    assert run.launchers == SEED_STEPS[3:]


def test_rows_of_both_stages_do_not_outlive_the_recipe_of_their_stage_1(tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0")
    shutil.rmtree(out / "stage1")
    run, others = StandIns(), ["--seeds", "0", "--stage1.train.steps", "48"]
    with pytest.raises(ValueError, match=r"both.seed0: began from a stage 1 of another recipe; .*64 .*, 48"):
        work(out, *others, run=run)
    assert run.ran == []
    again, content, _ = work(out, "--seeds", "0")  # the recipe that they began from
    assert again.launchers == SEED_STEPS[:3]
    assert content["missing"] == []
    shutil.rmtree(out / "stage1")
    shutil.rmtree(out / "both")
    assert work(out, *others)[0].launchers == [*SEED_STEPS[:3], *SEED_STEPS[6:]]


def test_both_stages_of_an_earlier_version_do_not_say_what_they_began_from(tmp_path):
    work(tmp_path / "out", "--seeds", "0")
    shutil.rmtree(tmp_path / "out" / "both" / "seed0" / "started_from")
    assert work(tmp_path / "out", "--seeds", "0")[0].ran == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis.txt' but no reproduce.json"):
        work(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_launcher_that_leaves_no_result_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"probe.py: ended without .*probe.json"):
        reproduce(parse_options(arguments(tmp_path / "out")), Console(quiet=True), lambda *_: None)


def with_model(folder: Path, model: Path | str) -> tuple[StandIns, dict, str]:
    return work(folder, "--only", "base", "--model", str(model))


def test_another_model_in_the_same_place_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    with_model(tmp_path / "out", model)
    assert with_model(tmp_path / "out", f"{model}/")[0].ran == []  # another name of the same folder
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(ValueError, match=r"model_fingerprint is '.*' there, '.*' here"):
        with_model(tmp_path / "out", model)
    (model / "model.safetensors").unlink()
    model.rmdir()
    assert with_model(tmp_path / "out", model)[0].ran == []  # a finished ablation needs no model


def test_a_folder_without_a_fingerprint_goes_on_and_gets_one(tmp_path):
    model, settings = tmp_path / "model", tmp_path / "out" / place.SETTINGS_FILE
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    with_model(tmp_path / "out", model)
    saved = json.loads(settings.read_text())
    del saved[FINGERPRINT]
    settings.write_text(json.dumps(saved))
    assert "whether --model has changed since is not known" in with_model(tmp_path / "out", model)[2]
    assert "is not known" not in with_model(tmp_path / "out", model)[2]
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(ValueError, match="model_fingerprint"):
        with_model(tmp_path / "out", model)


def test_an_ablation_of_a_run_that_an_earlier_version_began_goes_on(tmp_path):
    model, settings = write_run_folder(tmp_path / "model"), tmp_path / "out" / place.SETTINGS_FILE
    with_model(tmp_path / "out", model)
    saved = json.loads(settings.read_text()) | {FINGERPRINT: fingerprint_of_before(model)}
    settings.write_text(json.dumps(saved))
    assert with_model(tmp_path / "out", model)[0].ran == []
    assert json.loads(settings.read_text()) == saved
    (model / WEIGHTS).write_text("others")
    with pytest.raises(ValueError, match="model_fingerprint is"):
        with_model(tmp_path / "out", model)


def test_how_a_step_is_fitted_to_a_machine_may_change_between_calls_and_what_measures_may_not(tmp_path):
    out, fitted = tmp_path / "out", ("--train.accumulation", "2", "--model.remat", "full")
    work(out, "--seeds", "0")
    assert work(out, "--seeds", "0", *fitted, "--probe.batch_size", "8")[0].ran == []
    with pytest.raises(ValueError, match=r"\(attention is 'xla' there, 'splash' here"):
        work(out, "--seeds", "0", "--model.attention", "splash")


def commands_in(folder: Path) -> list[str]:
    table = (folder / "ablation.md").read_text()
    return table.split("```")[1].strip().splitlines()


def test_pictures_are_written_whole(tmp_path, monkeypatch):
    order = DiskOrder(monkeypatch)
    plan = Plan(parse_options(arguments(tmp_path / "out")))
    command.write_pictures(tmp_path, plan, {"rows": [BASE]})
    assert (tmp_path / command.ABLATION_PICTURE).read_bytes() == PICTURE
    assert (order.named, order.too_early) == (2, [])


def test_the_table_keeps_each_command_that_added_a_row(tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0", "--only", "base")
    work(out, "--seeds", "0", "--only", "base", "stage1")
    work(out, "--seeds", "0", "--only", "stage1")  # has nothing to add
    work(out, "--seeds", "0")
    _, content, _ = work(out, "--seeds", "0", "--only", "base")
    assert commands_in(out) == content["commands"]
    endings = ["--only base", "--only base stage1", "--seeds 0"]
    assert len(content["commands"]) == 3
    for command_line, ending in zip(content["commands"], endings, strict=True):
        assert command_line.endswith(ending)


@pytest.mark.parametrize("written", ['{"command": "the first"}', '{"command": "the first", "commands": []}'])
def test_the_command_of_an_earlier_version_stays(written, tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0", "--only", "base")
    (out / "ablation.json").write_text(written)
    work(out, "--seeds", "0", "--only", "base")
    assert commands_in(out) == ["the first"]
    work(out, "--seeds", "0", "--only", "stage1")
    assert commands_in(out)[0] == "the first"
    assert len(commands_in(out)) == 2


def test_a_damaged_table_is_written_anew(tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0", "--only", "base")
    (out / "ablation.json").write_text("{")
    work(out, "--seeds", "0", "--only", "base")
    assert len(commands_in(out)) == 1
