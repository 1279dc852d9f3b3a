"""Launchers that write in no time the files that the real ones leave, with values of their own."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from prorank_jax.evaluation.names import parse_dataset, slug
from prorank_jax.launching import Interrupted
from prorank_jax.reproduce.command import reproduce
from prorank_jax.reproduce.command_line import parse_options
from prorank_jax.reproduce.judgements import read_judgements

PICTURE = b"drawn"
MODEL_STEPS = ["probe.py", "evaluate.py"]
QUERIES = ("q001", "q002", "q003")  # of the demo's split dev
FIRST_STAGE = {"q001": 0.5, "q002": 0.25, "q003": 0.0}


def reranked(model: str) -> dict[str, float]:
    """nDCG@10 of a model by its path: the more stages and the higher the seed, the better."""
    gain = 0.125 * sum(part in model for part in ("/stage1/", "/stage2/")) + 0.25 * ("/both/" in model)
    gain += sum(0.0625 * seed for seed in range(3) if f"/seed{seed}/" in model)
    return {query: value + gain for query, value in FIRST_STAGE.items()}


class StandIns:
    """Called as `run_launcher`; remembers what it ran, and may be told to stop before a call.

    Attributes:
        ran: (launcher, arguments) of each call that was carried out.
        stop_at: number of the call, from 0, that raises `Interrupted` instead.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.ran: list[tuple[str, tuple[str, ...]]] = []
        self.stop_at = stop_at

    @property
    def launchers(self) -> list[str]:
        return [launcher for launcher, _ in self.ran]

    def __call__(self, launcher: str, arguments: Sequence[str]) -> None:
        if len(self.ran) == self.stop_at:
            raise Interrupted("stopped")
        self.ran.append((launcher, tuple(arguments)))
        given = _options(arguments)
        action = {
            "tpu_train.py": _train,
            "probe.py": _probe,
            "evaluate.py": _evaluate,
            "export_hf.py": lambda given: Path(given["output_dir"]).mkdir(parents=True),
        }
        action[launcher](given)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    parts = [part for text in arguments for part in (text.split("=", 1) if "=" in text else [text])]
    return {name.removeprefix("--"): value for name, value in zip(parts[::2], parts[1::2], strict=True)}


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content) + "\n")


def _train(given: dict[str, str]) -> None:
    config = yaml.safe_load(Path(given["config"]).read_text())
    run = Path(config["output_dir"])
    _write(run / "probes.jsonl", {"step": 0, "format_rate": 0.5, "accuracy": 0.5, "auc": 0.5})
    _write(run / "metrics.jsonl", {"step": 1, "loss": 0.7, "ndcg": None})
    shutil.copy(given["config"], run / "config.yaml")
    (run / "checkpoints" / str(config["train"]["steps"])).mkdir(parents=True, exist_ok=True)
    _write(run / "report.json", {})


def _probe(given: dict[str, str]) -> None:
    source = yaml.safe_load(Path(given["config"]).read_text())["model"]["source"]
    format_rate = 0.75 + 0.125 * ("seed1" in source) if "run" in source else 0.0
    content = {"model": source, "format_rate": format_rate, "accuracy": 0.5, "auc": 0.625, "examples": 8}
    _write(Path(given["output_dir"]) / "probe.json", content)


def _evaluate(given: dict[str, str]) -> None:
    folder, after = Path(given["output_dir"]), reranked(given["model"])
    judged = read_judgements(parse_dataset(given["dataset"]))
    names = QUERIES if judged.keys() >= set(QUERIES) else judged  # of other collections any three
    records = [
        {
            "query": name,
            "first_stage": {"ndcg@10": FIRST_STAGE[query]},
            "reranked": {"ndcg@10": after[query]},
        }
        for query, name in zip(QUERIES, names, strict=False)
    ]
    file = folder / slug(given["dataset"]) / "queries.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    _write(folder / "metrics.json", {})


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--dataset", "demo", "--model", "base", "--output_dir", str(folder), *more]


def work(folder: Path, *more: str, run: StandIns | None = None) -> tuple[StandIns, dict, str]:
    run, said = run or StandIns(), io.StringIO()
    content = reproduce(parse_options(arguments(folder, *more)), Console(file=said, width=200), run)
    return run, content, said.getvalue()
