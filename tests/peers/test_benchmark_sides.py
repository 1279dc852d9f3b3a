"""The sides of the stage 2 and scoring benchmarks against their peers, end to end on a tiny model.

`PRORANK_PEER_PYTHON` names the interpreter of an environment with tests/peers/requirements.txt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from prorank_jax.benchmarks.command import OURS, compare_sides
from prorank_jax.benchmarks.ranking_work import RankingWork
from prorank_jax.benchmarks.report import BenchmarkResult
from prorank_jax.benchmarks.scoring_work import ScoringWork
from prorank_jax.benchmarks.tasks import TASKS
from tests.cpu.benchmarks.tiny_work import tiny_options, write_tiny_model

pytestmark = pytest.mark.peers

SCRIPTS = Path(__file__).parents[2] / "launch" / "peers"


@pytest.fixture(scope="module")
def peer_python() -> str:
    python = os.environ.get("PRORANK_PEER_PYTHON")
    if not python:
        pytest.skip("PRORANK_PEER_PYTHON is not set: name a Python with tests/peers/requirements.txt")
    return python


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def compare(
    task: str, peer: str, size: ScoringWork | RankingWork, model: Path, work: Path, python: str
) -> BenchmarkResult:
    options = tiny_options(model, peer=peer, dataset=TASKS[task].dataset)
    settings = TASKS[task].write(options, size, work)
    commands = {
        OURS: [sys.executable, str(SCRIPTS / f"ours_{task}.py")],
        peer: [python, str(SCRIPTS / f"{peer.replace('-', '_')}_{task}.py")],
    }
    return compare_sides(task, TASKS[task], options, settings, commands, work, Console(quiet=True))


@pytest.mark.parametrize("peer", ["mxbai", "sentence-transformers"])
def test_scoring(peer, tiny_folder, tmp_path, peer_python):
    size = ScoringWork(queries=3, top_k=5, batch_size=4, peer_batches=(2, 4))
    result = compare("scoring", peer, size, tiny_folder, tmp_path, peer_python)
    assert result.agreement.values == 15
    assert result.agreement.largest_difference <= 1e-5
    assert result.peer.facts["batch_size"] in size.peer_batches
    assert result.ours.rounds[0].units == result.peer.rounds[0].units == 15
    assert result.ours.peak_share is not None


def test_ranking(tiny_folder, tmp_path, peer_python):
    size = RankingWork(lists=2, list_size=3, steps=2, remat="none")
    result = compare("ranking", "sentence-transformers", size, tiny_folder, tmp_path, peer_python)
    assert result.agreement.values == 1 + size.steps  # a gradient norm, and losses
    assert result.agreement.largest_difference <= 1e-4
    assert result.peer.facts["pairs_at_once"] in (1, 2, 4, 6)
    assert result.ours.rounds[0].units == result.peer.rounds[0].units == 4
