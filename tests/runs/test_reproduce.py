"""The whole ablation with the real launchers: a tiny random model, the demo collection, two steps a stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
from rich.console import Console

import prorank_jax.reranker
import prorank_jax.run_report
import prorank_jax.setup
from prorank_jax.reproduce.command import reproduce
from prorank_jax.reproduce.command_line import parse_options
from prorank_jax.sharding import make_mesh
from tests.cpu.tiny_run import load_launcher, write_model_folder

pytest.importorskip("ranx")

SHORT = (
    "--train.steps 2 --train.batch_size 4 --optimizer.warmup_steps 1 --checkpoint.every 2 --probe.every 2 "
    "--probe.examples 8 --probe.batch_size 4 --data.max_length 208 --stage1.data.buckets [208] "
    "--stage1.grpo.group_size 4 --stage2.ranking.list_size 2 --stage2.data.negatives_per_query 1 "
    "--data.pseudo_queries 8 --data.max_queries 6"
)


@pytest.fixture
def on_one_device(monkeypatch) -> None:
    for module in (prorank_jax.setup, prorank_jax.reranker):
        monkeypatch.setattr(module, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
    monkeypatch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)


def run_here(launcher: str, arguments: Sequence[str]) -> None:
    """A launcher in this process: jax is loaded already."""
    assert load_launcher(Path(launcher).stem).main(list(arguments)) == 0


@pytest.mark.usefixtures("on_one_device", "shared_programs")
def test_the_ablation_of_a_tiny_model(tmp_path):
    model, out = write_model_folder(tmp_path / "model"), tmp_path / "out"
    given = ["--dataset", "demo", "--model", str(model), "--output_dir", str(out), *SHORT.split()]
    few = ["--seeds", "0", "--queries", "4", "--top_k", "3", "--only", "base", "both"]
    options = parse_options([*given, *few])
    content = reproduce(options, Console(quiet=True), run_here)
    assert content["missing"] == ["stage 1 only, seed 0", "stage 2 only, seed 0"]
    assert content["training_overlap"]["drawn_queries"] == 6
    for row, part in zip(content["rows"], ("base", "both/seed0"), strict=True):
        metrics = json.loads((out / part / "evaluation" / "metrics.json").read_text())
        entry = metrics["datasets"]["demo:dev"]
        assert row["ndcg@10"]["mean"] == pytest.approx(entry["reranked"]["ndcg@10"])
        assert row["to_first_stage"]["delta"] == pytest.approx(entry["delta"])
        assert content["first_stage"]["mean"] == pytest.approx(entry["first_stage"]["ndcg@10"])
        assert metrics["max_length"] == 208
    # The base model's probe is the one that stage 1 takes before its first step, on the same prompts.
    before = json.loads((out / "stage1" / "seed0" / "run" / "report.json").read_text())["before"]
    assert content["rows"][0]["auc"]["mean"] == before["auc"]
    assert content["rows"][0]["accuracy"]["mean"] == before["accuracy"]
    labels = [json.loads(file.read_text())["labels"] for file in out.rglob("probe.json")]
    assert len(labels) == 2
    assert all(label == labels[0] for label in labels)
    for name in ("ablation.png", "learning.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    written = (out / "ablation.md").read_text()

    def refuse(*_: object) -> None:
        raise AssertionError("worked again")

    assert reproduce(options, Console(quiet=True), refuse) == content
    assert (out / "ablation.md").read_text() == written
