"""One command line for both stages: what each of them gets of it, and that it trains what two commands do."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

import prorank_jax.run_report
import prorank_jax.setup
from prorank_jax.config_files import load_config
from prorank_jax.metrics_log import METRICS_FILE, read_lines
from prorank_jax.sharding import make_mesh
from prorank_jax.stage_plan import arguments_of_stage, planned_runs
from tests.cpu.tiny_run import command_line, load_launcher, tiny_fields, write_collection, write_model_folder
from tests.runs.test_train_stage2 import without_speeds

MIXED = ["--train.steps", "9", "--stage2.train.steps=5", "--stage1.train.seed", "3", "--model.remat=full"]


def test_each_stage_gets_what_is_its_own_and_what_is_common():
    assert arguments_of_stage(1, MIXED) == [
        "--train.steps", "9", "--model.remat=full", "--train.seed", "3"
    ]  # fmt: skip
    assert arguments_of_stage(2, MIXED) == ["--train.steps", "9", "--model.remat=full", "--train.steps=5"]


@pytest.mark.parametrize("stage", [["--stage", "both"], ["--stage=both"]])
def test_both_stages_share_a_folder_and_the_second_starts_from_the_first(stage):
    first, second = planned_runs([*MIXED, *stage, "--output_dir", "runs/mine/", "--init", "some/model"])
    assert (first.stage, first.output_dir, first.model.source) == (1, "runs/mine/stage1", "some/model")
    assert (second.stage, second.output_dir, second.model.source) == (2, "runs/mine/stage2", first.output_dir)
    assert (first.train.steps, second.train.steps) == (9, 5)
    assert (first.train.seed, second.train.seed) == (3, 0)


def test_folders_of_their_own_are_kept():
    first, second = planned_runs(["--stage=both", "--stage1.output_dir", "a", "--stage2.output_dir", "b"])
    assert (first.output_dir, second.output_dir, second.model.source) == ("a", "b", "a")
    first, second = planned_runs(["--stage", "both"])
    assert (first.output_dir, second.output_dir) == ("runs/stage1", "runs/stage2")


@pytest.mark.parametrize("second", ["runs/x/", "./runs/x", "runs/y/../x"])
def test_one_folder_spelled_in_two_ways_is_one(second):
    runs = planned_runs(["--stage=both", "--stage1.output_dir", "runs/x", "--stage2.output_dir", second])
    assert [Path(run.output_dir).name for run in runs] == ["stage1", "stage2"]
    urls = ["--stage1.output_dir", "gs://bucket/x", "--stage2.output_dir", "gs://bucket/x/"]
    told = [run.output_dir for run in planned_runs(["--stage=both", *urls])]
    assert told == ["gs://bucket/x/stage1", "gs://bucket/x/stage2"]


def test_what_a_file_starts_stage_2_from_is_its_own_stage_1_or_refused(tmp_path):
    file = tmp_path / "both.yaml"
    both = ["--stage", "both", "--config", str(file)]
    for folder in ("a", "a/stage1"):
        file.write_text(f"output_dir: a\nstage2: {{model: {{source: {folder}}}}}\n")
        for moved in ([], ["--output_dir", "b"]):
            first, second = planned_runs([*both, *moved])
            assert second.model.source == first.output_dir
    file.write_text("model: {source: start}\nstage2: {model: {source: other}}\n")
    with pytest.raises(ValueError, match=r"both\.yaml: stage2\.model\.source='other': with --stage both"):
        planned_runs(both)
    file.write_text("model: {source: start}\n")
    assert [run.model.source for run in planned_runs(both)] == ["start", "runs/stage1"]


def test_a_file_with_sections_serves_both(tmp_path):
    file = tmp_path / "both.yaml"
    file.write_text("output_dir: x\ntrain: {steps: 7}\nstage2: {model: {source: x}, train: {steps: 8}}\n")
    first, second = planned_runs(["--stage", "both", "--config", str(file)])
    assert (first.output_dir, first.train.steps) == ("x/stage1", 7)
    assert (second.output_dir, second.train.steps, second.model.source) == ("x/stage2", 8, "x/stage1")


def test_one_stage_is_read_as_ever():
    assert planned_runs(["--stage", "2", "--train.steps", "4"]) == (
        load_config(None, {"stage": 2, "train.steps": 4}),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage2.init", "other"], r"--stage2\.init: with --stage both, stage 2 starts from stage 1"),
        (["--stage2.model.source=other"], "leave it out"),
        (["--stage2.train.steps", "none"], r"train\.steps='none' has the wrong type"),
        (["--stage2.ranking.list_size", "0"], r"ranking\.list_size=0"),
        (["--stage3.train.steps", "1"], "unknown field"),
    ],
)
def test_what_cannot_work_is_refused_before_either_stage(arguments, message):
    with pytest.raises(ValueError, match=message):
        planned_runs(["--stage", "both", *arguments])


@pytest.fixture
def fields(tmp_path, monkeypatch) -> dict[str, object]:
    """Of a run of either stage in the folder `one`, on one device."""
    monkeypatch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
    monkeypatch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    fields = tiny_fields(model, collection, tmp_path / "one") | {"train.steps": 3, "probe.examples": 4}
    del fields["data.buckets"]
    return fields


@pytest.mark.usefixtures("shared_programs", "rough_pictures")
def test_one_command_trains_what_two_do(tmp_path, fields):
    launcher = load_launcher()
    assert launcher.main(command_line(fields | {"stage": "both"})) == 0
    apart = fields | {"output_dir": str(tmp_path / "apart1"), "stage": 1}
    assert launcher.main(command_line(apart)) == 0
    apart |= {"output_dir": str(tmp_path / "apart2"), "stage": 2, "init": apart["output_dir"]}
    del apart["model.source"]
    assert launcher.main(command_line(apart)) == 0
    for together, alone in (("one/stage1", "apart1"), ("one/stage2", "apart2")):
        assert without_speeds(tmp_path / together) == without_speeds(tmp_path / alone)
    before = read_lines(tmp_path / "one" / "stage2" / METRICS_FILE)
    assert launcher.main(command_line(fields | {"stage": "both"})) == 0  # nothing is left to do
    assert read_lines(tmp_path / "one" / "stage2" / METRICS_FILE) == before


@pytest.mark.usefixtures("shared_programs", "rough_pictures")
def test_both_stages_go_on_elsewhere_where_stage_2_reads_stage_1_again(tmp_path, fields):
    """Stage 1's config is written anew then, with the fields that may differ; its weights are the same."""
    fields |= {"stage": "both", "ranking.kl_coefficient": 0.1}
    launcher = load_launcher()
    assert launcher.main(command_line(fields)) == 0
    before = read_lines(tmp_path / "one" / "stage2" / METRICS_FILE)
    assert launcher.main(command_line(fields | {"train.sample_every": 7, "checkpoint.keep": 1})) == 0
    (tmp_path / "one").rename(tmp_path / "moved")
    assert launcher.main(command_line(fields | {"output_dir": str(tmp_path / "moved")})) == 0
    assert read_lines(tmp_path / "moved" / "stage2" / METRICS_FILE) == before
    other = fields | {"output_dir": str(tmp_path / "moved"), "stage1.output_dir": fields["model.source"]}
    assert launcher.main(command_line(other)) == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"ranking.losses": "listwize=1"}, "did you mean listwise"),
        ({"ranking.losses": "margin_mse=1"}, "needs teacher scores"),
        ({"stage2.optimizer.warmup_steps": 3}, "optimizer.warmup_steps=3: must be below the 3 updates"),
        ({"stage2.train.batch_size": 3, "stage2.mesh.data": 2}, "must be a multiple of mesh.data"),
        ({"stage2.data.max_length": 20}, "data.max_length=20: too short"),
        ({"stage2.data.max_length": 4096}, "data.max_length=4096: with grpo.max_new_tokens"),
        ({"stage2.data.source": "{root}/nowhere"}, "/nowhere': no such file or folder"),
        ({"stage2.data.split": "tarin"}, "data.split='tarin': "),
        ({"stage2.data.probe_split": "nowhere"}, "data.probe_split='nowhere': "),
        ({"stage2.data.probe_split": "train"}, "the probe would see the training queries"),
        (
            {"ranking.losses": "margin_mse=1", "data.teacher_scores": "{root}/scores.tsv"},
            "scores.tsv': no such file",
        ),
        (
            {"ranking.losses": "margin_mse=1", "data.teacher_scores": "{root}/bad.tsv"},
            "bad.tsv, line 1: the score 'good1' is not a finite",
        ),
        ({"stage2.data.negatives_run": "{root}/half.trec"}, "lacks 11 of the 12 queries to train on ('q0', "),
        (
            {"stage2.data.source": "{root}/unscored.jsonl", "data.negatives_run": "{root}/half.trec"},
            "unscored.jsonl names no documents; write the negatives into its neg",
        ),
        (
            {"stage2.data.source": "{root}/unscored.jsonl", "ranking.losses": "margin_mse=1"},
            "unscored.jsonl (train) has none: name a file",
        ),
        (
            {"stage2.data.source": "{root}/unscored.jsonl", "stage2.data.relevant_grade": 2},
            "have grade 1; set it to 1",
        ),
        (
            {"stage2.data.source": "{root}/scored.jsonl"},
            "line 1: score=0.5 is a score, which does not say what is relevant; set data.relevant_score",
        ),
    ],
)
def test_what_stage_2_will_refuse_costs_no_stage_1(extra, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        prorank_jax.setup,
        "make_mesh",
        lambda options: make_mesh(options, jax.devices()[: max(options.data, 1)]),
    )
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    fields = tiny_fields(model, collection, tmp_path / "run") | {"train.steps": 3, "stage": "both"}
    del fields["data.buckets"]
    (tmp_path / "bad.tsv").write_text("q1\td1-0\tgood1\n")
    (tmp_path / "half.trec").write_text("q1 Q0 d1-0 1 2.5 dense\n")
    lines = (json.dumps({"query": f"question {number}", "pos": ["an answer"]}) for number in range(40))
    (tmp_path / "unscored.jsonl").write_text("\n".join(lines))
    scored = {"query": "question", "passage": "an answer", "score": 0.5}
    (tmp_path / "scored.jsonl").write_text(json.dumps(scored))
    extra = {
        name: value.format(root=tmp_path) if isinstance(value, str) else value
        for name, value in extra.items()
    }
    assert load_launcher().main(command_line(fields | extra)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_stage_2_cannot_have_costs_no_stage_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
    model, collection = write_model_folder(tmp_path / "model"), write_collection(tmp_path / "collection")
    fields = tiny_fields(model, collection, tmp_path / "run") | {"train.steps": 3, "stage": "both"}
    del fields["data.buckets"]
    (tmp_path / "run" / "stage2").mkdir(parents=True)
    (tmp_path / "run" / "stage2" / "notes.txt").write_text("mine")
    assert load_launcher().main(command_line(fields)) == 2
    assert "stage2': holds 'notes.txt' but no config.yaml of a run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["stage2"]
