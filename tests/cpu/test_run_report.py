"""What a report counts of the examples: those that the run was trained on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from prorank_jax.config_files import load_config
from prorank_jax.run_facts import DataFacts
from prorank_jax.run_report import _run_facts, what_is_read


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
    stage = SimpleNamespace(trained=trained, learned="ndcg", held_out="")
    config = load_config(None, {"stage": 2, "data.max_length": 20})
    run = SimpleNamespace(stage=stage, examples=examples, config=config)
    assert _run_facts(run, tmp_path).data == expected
    assert what_is_read(run).startswith(
        f"data: {expected.queries} queries; 200 steps x 16 lists read each of"
    )
