"""Stage 2 on top of a stage-1 run: it learns, resumes to the same bits, and can be loaded as a model."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

import prorank_jax.run_report
import prorank_jax.setup
from prorank_jax.config import MeshOptions
from prorank_jax.config_files import load_config
from prorank_jax.metrics_log import METRICS_FILE, MetricsLog, read_lines
from prorank_jax.models.transformer import Transformer
from prorank_jax.pretrained import open_pretrained
from prorank_jax.prompts import AnswerTokens, make_renderer
from prorank_jax.report import PICTURE_FILE
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.run_report import PROBES_FILE
from prorank_jax.sharding import make_mesh
from prorank_jax.steps import make_score_step
from prorank_jax.storage_faults import TooLittleMemoryError
from prorank_jax.train import train
from tests.cpu.shared_programs import sharing_programs
from tests.cpu.tiny_run import tiny_fields, write_collection, write_model_folder
from tests.runs.test_train import at_step

STEPS = 10
SPEEDS = {"prompts_per_second", "tokens_per_second", "model_tflops", "compilations"}
LOW_RANK = {"lora.rank": 2, "ranking.losses": "listwise=1,preference=0.5", "ranking.kl_coefficient": 0.1}
FULL = {"ranking.losses": "listwise=1, pointwise=0.5, info_nce=0.1", "ranking.in_batch_negatives": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Iterator[Path]:
    """A folder with a collection and a stage-1 run, for runs on one device."""
    folder = tmp_path_factory.mktemp("stage2")
    write_model_folder(folder / "model")
    write_collection(folder / "collection")
    with pytest.MonkeyPatch.context() as patch, sharing_programs():
        patch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
        patch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
        fields = tiny_fields(folder / "model", folder / "collection", folder / "first")
        run(fields | {"train.steps": 4, "lora.rank": 2})
        yield folder


def run(fields: dict[str, Any]) -> dict[str, Any]:
    return train(load_config(None, fields), Console(file=io.StringIO(), width=120))


def stage2_fields(workshop: Path, name: str, extra: dict[str, Any]) -> dict[str, Any]:
    fields = tiny_fields(workshop / "first", workshop / "collection", workshop / name)
    del fields["data.buckets"]
    return (
        fields
        | {
            "stage": 2,
            "train.steps": STEPS,
            "train.batch_size": 4,
            "train.accumulation": 2,
            "ranking.list_size": 4,
            "checkpoint.every": 4,
            "probe.every": 5,
        }
        | extra
    )


def without_speeds(folder: Path) -> list[dict[str, Any]]:
    records = read_lines(folder / METRICS_FILE)
    return [{name: value for name, value in r.items() if name not in SPEEDS} for r in records]


def epoch_mean(records: list[dict[str, Any]], number: int, metric: str) -> float:
    """Over the three steps that see each of the twelve queries once."""
    return float(np.mean([record[metric] for record in records[3 * (number - 1) : 3 * number]]))


@pytest.mark.parametrize(("name", "extra"), [("low-rank", LOW_RANK), ("full", FULL)])
def test_stage_2_learns_from_a_stage_1_run_and_resumes_to_the_same_bits(workshop, name, extra, monkeypatch):
    report = run(stage2_fields(workshop, name, extra))
    records = read_lines(workshop / name / METRICS_FILE)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert all(np.isfinite(record["loss"]) for record in records)
    # Which documents the lists of an epoch hold changes its mean loss by 0.2 %.
    assert epoch_mean(records, 3, "loss") < 0.993 * epoch_mean(records, 1, "loss")
    for loss in (part.partition("=")[0].strip() for part in extra["ranking.losses"].split(",")):
        assert epoch_mean(records, 3, loss) < epoch_mean(records, 1, loss)
    assert len({record["compilations"] for record in records[4:]}) == 1
    assert report["stage"] == 2
    assert {"format_rate", "accuracy", "auc", "query_auc"} <= set(report["after"])
    probes = read_lines(workshop / name / PROBES_FILE)
    assert all(len(probe["query_aucs"]) > 2 for probe in probes)
    assert [probe["query_auc"] for probe in probes] == [np.mean(probe["query_aucs"]) for probe in probes]
    assert (workshop / name / PICTURE_FILE).stat().st_size > 10_000

    def crash() -> None:
        raise RuntimeError("crashed")

    again = stage2_fields(workshop, f"{name}-again", extra)
    for step in (2, 6):
        monkeypatch.setattr(MetricsLog, "write", at_step(step, crash))
        with pytest.raises(RuntimeError, match="crashed"):
            run(again)
        monkeypatch.undo()
    run(again)
    assert without_speeds(workshop / f"{name}-again") == without_speeds(workshop / name)
    assert read_lines(workshop / f"{name}-again" / PROBES_FILE) == read_lines(workshop / name / PROBES_FILE)
    ours, theirs = (open_pretrained(str(workshop / n)).load_params(None) for n in (name, f"{name}-again"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_run_whose_first_probes_are_of_an_earlier_version_goes_on(workshop, monkeypatch):
    def crash() -> None:
        raise RuntimeError("crashed")

    fields, file = stage2_fields(workshop, "earlier", FULL), workshop / "earlier" / PROBES_FILE
    monkeypatch.setattr(MetricsLog, "write", at_step(6, crash))
    with pytest.raises(RuntimeError, match="crashed"):
        run(fields)
    monkeypatch.undo()
    later = ("query_auc", "query_aucs")
    known = [{name: value for name, value in r.items() if name not in later} for r in read_lines(file)]
    file.write_text("".join(json.dumps(record) + "\n" for record in known))
    report = run(fields)
    assert report["before"]["query_auc"] is None
    assert 0 <= report["after"]["query_auc"] <= 1
    first, *others = read_lines(file)
    assert first == known[0]
    assert all(record["query_aucs"] for record in others)


def test_the_run_directory_is_the_model_that_was_probed(workshop):
    """With low-rank factors merged in."""
    run(stage2_fields(workshop, "probed", LOW_RANK))
    opened = open_pretrained(str(workshop / "probed"))
    assert opened.run is not None
    assert opened.run.lora.rank == 2
    params = opened.load_params(None)
    start = open_pretrained(str(workshop / "first")).load_params(None)
    assert jax.tree.structure(params) == jax.tree.structure(start)
    renderer = make_renderer(opened.tokenizer, max_length=opened.run.data.max_length)
    probe = read_lines(workshop / "probed" / PROBES_FILE)[-1]
    scores = sorted(probe["scores"])
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    step = make_score_step(Transformer(opened.config), AnswerTokens(*_answers(renderer)), mesh)
    batches = prorank_jax.setup.prepare_run(
        load_config(None, stage2_fields(workshop, "probed", LOW_RANK)), Console(file=io.StringIO())
    ).held_out.batches
    again = np.concatenate([np.asarray(step(params, b))[np.asarray(b.examples) >= 0] for b in batches])
    np.testing.assert_allclose(sorted(again.tolist()), scores, atol=1e-4)


def _answers(renderer) -> tuple[int, int, int]:
    answers = renderer.answer_tokens
    return answers.zero, answers.one, answers.end


def test_a_teachers_scores_are_learned_from(workshop):
    """They are the opposite of the grades."""
    qrels = (workshop / "collection" / "qrels" / "train.tsv").read_text().splitlines()[1:]
    lines = [f"{q}\t{d}\t{2.5 - int(grade)}" for q, d, grade in (line.split("\t") for line in qrels)]
    teacher = workshop / "teacher.tsv"
    teacher.write_text("\n".join(lines) + "\n")
    extra = {"data.teacher_scores": str(teacher), "ranking.losses": "margin_mse=1,listwise_teacher=0.5"}
    extra |= {"train.steps": 6, "optimizer.warmup_steps": 1, "optimizer.learning_rate": 3e-3}
    run(stage2_fields(workshop, "taught", extra))
    records = read_lines(workshop / "taught" / METRICS_FILE)
    for loss in ("margin_mse", "listwise_teacher"):
        assert epoch_mean(records, 2, loss) < 0.98 * epoch_mean(records, 1, loss)
    assert epoch_mean(records, 2, "ndcg") < epoch_mean(records, 1, "ndcg") - 0.01  # which is of the grades
    contents = (workshop / "taught" / "data").glob("*/content.json")
    teachers = {json.loads(file.read_text())["teacher"] for file in contents}
    assert teachers == {hashlib.sha256(teacher.read_bytes()).hexdigest(), ""}  # the probe has none


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"ranking.losses": "margin_mse=1"}, r"needs teacher scores, and .* has none"),
        ({"ranking.losses": "listwize=1"}, r"did you mean listwise\?"),
        ({"ranking.in_batch_negatives": 2}, r"ranking\.in_batch_negatives=2: none of .* add info_nce"),
        ({"ranking.losses": "pointwise=1", "ranking.soft_labels": "teacher"}, "needs teacher scores"),
        (
            {"data.teacher_scores": "nowhere.run", "ranking.losses": "listwise=1, margin_mse=0"},
            r"data\.teacher_scores='nowhere.run': no such file",
        ),
        ({"data.teacher_scores": "any.run"}, r"data\.teacher_scores='any.run': none of .* reads a teacher"),
        ({"data.buckets": (180, 208)}, r"data\.buckets=.*stage 2 chooses its lengths"),
        ({"train.accumulation": 3}, r"train\.accumulation=3: must divide train.batch_size=4"),
        ({"model.source": "nowhere/run/x"}, "no such folder or file"),
        ({"data.relevant_grade": 9}, r"data\.relevant_grade=9: none of the"),
    ],
)
def test_what_stage_2_refuses_before_it_computes(workshop, extra, said):
    folder = workshop / "refused"
    with pytest.raises(ValueError, match=said):
        run(stage2_fields(workshop, "refused", extra))
    assert not folder.exists() or not (folder / "config.yaml").exists()


@pytest.mark.parametrize(
    ("losses", "held_out"),
    [("listwise=1", ("query_auc",)), ("listwise=1, pointwise=0.5", ("query_auc", "auc"))],
)
def test_the_auc_over_all_queries_has_to_rise_only_where_levels_are_learned(workshop, losses, held_out):
    config = load_config(None, stage2_fields(workshop, "levels", {"ranking.losses": losses}))
    assert prorank_jax.setup.prepare_run(config, Console(file=io.StringIO())).stage.goals.held_out == held_out


def test_the_work_of_a_step_leaves_out_empty_places(workshop):
    extra = {"ranking.list_size": 8} | FULL
    config = load_config(None, stage2_fields(workshop, "work", extra))
    stage = prorank_jax.setup.prepare_run(config, Console(file=io.StringIO())).stage
    batch = next(stage.batches())
    real = batch.mask | batch.in_batch
    assert 0 < real.sum() < real.size
    assert stage.work(batch).prompts == real.sum()
    assert stage.work(batch).tokens == batch.lengths[real].sum() + batch.prefix_lengths.sum()


def test_another_prompt_than_the_first_stages_is_noted(workshop, caplog):
    with caplog.at_level(logging.WARNING):
        prorank_jax.setup.prepare_run(
            load_config(None, stage2_fields(workshop, "other-prompt", {"data.system": "Judge."})),
            Console(file=io.StringIO()),
        )
    assert "was trained with ''" in caplog.text


def test_another_prompt_than_an_exports_is_noted(workshop, tmp_path, caplog):
    model = write_model_folder(tmp_path / "model")
    settings = {"system": "Judge.", "instruction": "", "max_length": 256}
    (model / "prorank.json").write_text(json.dumps(settings))
    config = load_config(None, stage2_fields(workshop, "of-export", {"model.source": str(model)}))
    with caplog.at_level(logging.WARNING):
        prorank_jax.setup.prepare_run(config, Console(file=io.StringIO()))
    assert "was trained with 'Judge.'" in caplog.text


def test_the_report_says_what_stage_it_was(workshop):
    assert json.loads((workshop / "first" / REPORT_FILE).read_text())["stage"] == 1


def test_a_step_that_finds_no_room_says_what_takes_less(workshop, monkeypatch):
    def allocate() -> None:
        jax.block_until_ready(jax.jit(lambda: jax.numpy.ones(1 << 43))())

    monkeypatch.setattr(MetricsLog, "write", at_step(2, allocate))
    with pytest.raises(
        TooLittleMemoryError, match=r"too little memory .*; raise train\.accumulation \(2\) or set"
    ):
        run(stage2_fields(workshop, "large", {}))
