"""What a report counts of the examples, and what it says of files that have lost a part."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from prorank_jax import run_report
from prorank_jax.config_files import load_config
from prorank_jax.learning_signs import Goals
from prorank_jax.probe import ProbeResult
from prorank_jax.run_facts import DataFacts
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.run_report import _machine_facts, _run_facts, _written_report, losses, what_is_read


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(None, DataFacts(3, 5, 3, 2)), (np.array([0, 1, 4]), DataFacts(2, 3, 2, 1))],
)
def test_examples_of_no_batch_are_not_counted(trained, expected, tmp_path):
    """As queries whose documents all have one grade, which no loss over lists learns from."""
    for name in ("metrics.jsonl", "probes.jsonl"):
        (tmp_path / name).write_text("")
    examples = SimpleNamespace(
        queries=np.array([0, 0, 1, 1, 2]),
        labels=np.array([1, 0, 1, 0, 1]),
        lengths=np.array([9, 9, 9, 20, 20]),
    )
    stage = SimpleNamespace(trained=trained, goals=Goals("ndcg", 1.0, ("query_auc",)))
    config = load_config(None, {"stage": 2, "data.max_length": 20})
    run = SimpleNamespace(stage=stage, examples=examples, config=config)
    assert _run_facts(run, tmp_path).data == expected
    assert what_is_read(run).startswith(
        f"data: {expected.queries} queries; 200 steps x 16 lists read each of"
    )


@pytest.mark.parametrize(
    ("probed", "logged", "said"),
    [
        ([0, 4], 4, []),
        ([4], 4, [r"probes\.jsonl: lacks the probe of step 0,"]),
        ([2, 4], 4, [r"probes\.jsonl: lacks the probe of step 0,"]),
        ([0, 4], 0, [r"metrics\.jsonl: holds no step,"]),
        ([4], 0, [r"probes\.jsonl: lacks", r"metrics\.jsonl: holds no step,"]),
    ],
)
def test_what_a_report_cannot_tell_is_said(probed, logged, said, tmp_path):
    probes = [ProbeResult(step, 2, 0.5, 0.5, 0.5, 0.5, [0.0, 1.0], [0, 1]) for step in probed]
    found = losses(tmp_path, probes, [{"step": step} for step in range(1, logged + 1)])
    assert len(found) == len(said)
    for sentence, pattern in zip(found, said, strict=True):
        assert re.search(pattern, sentence)


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"null", b"\xff", None])
def test_a_damaged_report_is_written_again(damaged, tmp_path):
    """As the message of an export promises that repeating the run's command does."""
    if damaged is not None:
        (tmp_path / REPORT_FILE).write_bytes(damaged)
    assert _written_report(tmp_path) == {}
    (tmp_path / REPORT_FILE).write_text('{"devices": "1 x cpu"}')
    assert _written_report(tmp_path) == {"devices": "1 x cpu"}


@pytest.mark.parametrize(
    ("peak_before", "told"),
    [(3 << 30, "first device, before this run, which took no more"), (0, "first device")],
)
def test_the_memory_of_the_products_that_a_machine_is_measured_with_is_not_the_runs(
    peak_before, told, monkeypatch
):
    taken = [3 << 30]

    def products(_: str) -> float:
        taken[0] = 4 << 30
        return 2e12

    monkeypatch.setattr(run_report, "measured_matmul_flops", products)
    monkeypatch.setattr(run_report, "peak_memory", lambda: (taken[0], "first device"))
    facts = _machine_facts(SimpleNamespace(config=load_config(None, {"stage": 2})), None, peak_before)
    assert (facts["peak_memory_gib"], facts["peak_memory_of"]) == (3.0, told)
    assert facts["matmul_tflops"] == 2.0 * jax.device_count()
