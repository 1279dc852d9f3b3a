"""Pooling over seeds, against plain numpy, and the table that comes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.evaluation.significance import compare
from prorank_jax.reproduce.pictures import Curves, draw_ablation, draw_learning
from prorank_jax.reproduce.plan import Entry
from prorank_jax.reproduce.results import Measured, ablation_content, pool
from prorank_jax.reproduce.rows import BASE, BOTH, STAGE1, STAGE2
from prorank_jax.reproduce.tables import ablation_markdown

QUERIES = ("a", "b", "c", "d")
FACTS = {
    "command": "python launch/reproduce.py --dataset demo",
    "model": "tiny",
    "dataset": "demo",
    "train_split": "train",
    "test_split": "dev",
    "queries": None,
    "top_k": 20,
    "max_length": 160,
}
FIRST = dict.fromkeys(QUERIES, 0.25)


def measured(row: str, seed: int | None, values: list[float], format_rate: float = 0.5) -> Measured:
    probe = {"format_rate": format_rate, "accuracy": 0.75, "auc": 0.875, "examples": 64}
    return Measured(Entry(row, seed), probe, FIRST, dict(zip(QUERIES, values, strict=True)))


MODELS = [
    measured(BASE, None, [0.0, 0.25, 0.25, 0.0], 0.0),
    measured(STAGE1, 0, [0.5, 0.0, 0.25, 0.25], 0.75),
    measured(STAGE1, 1, [0.0, 0.5, 0.25, 0.75], 1.0),
    measured(BOTH, 0, [0.5, 0.5, 0.75, 1.0], 1.0),
    measured(BOTH, 1, [0.25, 0.75, 0.25, 1.0], 1.0),
]
MISSING = [Entry(STAGE2, 0), Entry(STAGE2, 1)]


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_query_counts_as_its_mean_over_seeds(seeds, queries, draw):
    values = np.random.default_rng(draw).random((seeds, queries))
    pooled = pool([{str(q): float(row[q]) for q in range(queries)} for row in values])
    assert list(pooled.values()) == pytest.approx(values.mean(axis=0))


@pytest.mark.parametrize("seeds", [[], [{"a": 1.0}, {"b": 1.0}], [{"a": 1.0}, {"a": 1.0, "b": 0.0}]])
def test_seeds_must_be_measured_on_the_same_queries(seeds):
    with pytest.raises(ValueError, match="the same queries"):
        pool(seeds)


def test_rows_are_compared_query_by_query():
    content = ablation_content(FACTS, MODELS, MISSING)
    base, first, both = content["rows"]
    assert [row["row"] for row in content["rows"]] == [BASE, STAGE1, BOTH]
    assert [row["seeds"] for row in content["rows"]] == [[], [0, 1], [0, 1]]
    assert first["ndcg@10"]["of_each_seed"] == [0.25, 0.375]
    assert first["ndcg@10"]["mean"] == 0.3125
    assert content["first_stage"]["mean"] == 0.25
    assert first["format_rate"] == {"mean": 0.875, "least": 0.75, "greatest": 1.0}
    pooled = {
        row: pool([one.reranked for one in MODELS if one.entry.row == row]) for row in (BASE, STAGE1, BOTH)
    }
    for row in (base, first):
        expected = compare(pooled[BOTH], pooled[row["row"]])
        assert row["both_minus_this"]["delta"] == expected.delta
        assert row["both_minus_this"]["p_value"] == expected.p_value
    assert both["both_minus_this"] is None
    assert both["to_first_stage"]["p_value"] == compare(pooled[BOTH], FIRST).p_value
    assert content["missing"] == ["stage 2 only, seed 0", "stage 2 only, seed 1"]


def test_without_both_stages_nothing_is_compared_to_them():
    content = ablation_content(FACTS, MODELS[:3], [])
    assert [row["both_minus_this"] for row in content["rows"]] == [None, None]


def test_no_model_and_other_candidates_are_refused():
    with pytest.raises(ValueError, match="no model is measured"):
        ablation_content(FACTS, [], [Entry(BASE, None)])
    other = Measured(Entry(BOTH, 3), MODELS[0].probe, {**FIRST, "a": 1.0}, MODELS[0].reranked)
    with pytest.raises(ValueError, match="different candidates"):
        ablation_content(FACTS, [*MODELS, other], [])


def test_the_table_in_markdown():
    text = ablation_markdown(ablation_content(FACTS, MODELS, MISSING))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {len(row) for row in rows} == {8}
    assert [row[0] for row in rows[1:]] == [
        "| ---",
        "| BM25",
        "| base model",
        "| stage 1 only",
        "| both stages",
    ]
    stage1 = rows[4]
    assert stage1[1:5] == ["2", "0.875 (0.750 to 1.000)", "0.750", "0.875"]
    assert stage1[5].startswith("0.312 (")
    assert stage1[6].startswith("+0.062 (")
    assert stage1[7].startswith("+0.312 (")
    assert rows[3][1] == ""  # the base model has no seed
    assert "**Not complete. Missing:** stage 2 only, seed 0, stage 2 only, seed 1." in text
    assert FACTS["command"] in text
    assert "Missing" not in ablation_markdown(ablation_content(FACTS, MODELS, []))


def test_pictures_render():
    assert draw_ablation(ablation_content(FACTS, MODELS, MISSING)).startswith(b"\x89PNG")
    probes = [{"step": step, "format_rate": 0.5, "accuracy": 0.5, "auc": 0.5} for step in (0, 4)]
    steps = [{"step": step, "loss": 1.0 / step, "ndcg": None if step == 2 else 0.5} for step in (1, 2, 3, 4)]
    runs = [Curves(row, seed, probes, steps) for row in (STAGE1, STAGE2, BOTH) for seed in (0, 1)]
    full = draw_learning(runs)
    assert full.startswith(b"\x89PNG")
    assert full != draw_learning(runs[:1])
    assert draw_learning([]).startswith(b"\x89PNG")
