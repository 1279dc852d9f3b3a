"""The files and the table a finished run leaves."""

from __future__ import annotations

import dataclasses
import json
import math

import matplotlib.image
import pytest

from prorank_jax.probe import ProbeResult
from prorank_jax.report import PICTURE_FILE, before_after_rows, before_after_table, draw_report, write_report
from prorank_jax.run_folder import REPORT_FILE


def probe(step: int, auc: float = 0.5) -> ProbeResult:
    return ProbeResult(step, 4, 0.25, 0.5, auc, 0.125, [-1.0, 2.0, 0.5, 0.5], [0, 1, 0, 1])


def ordered(step: int, *query_aucs: float) -> ProbeResult:
    return dataclasses.replace(probe(step), query_aucs=list(query_aucs))


CURVES = {"reward": "reward", "answer_entropy": "answer entropy (nats)"}


def metrics(steps: int) -> list[dict]:
    return [{"step": step} | dict.fromkeys(CURVES, step / 10) for step in range(1, steps + 1)]


@pytest.mark.parametrize("steps", [0, 1, 25])
def test_report_and_picture(tmp_path, steps):
    records = metrics(steps)
    for record in records[:1]:
        record["reward"] = None  # a NaN that was logged
    probes = [probe(0), probe(steps, 0.875)]
    write_report(tmp_path, probes, records, {"model": "tiny"})
    draw_report(tmp_path / PICTURE_FILE, probes, records, CURVES)
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert report["before"]["step"] == 0
    assert report["after"]["auc"] == 0.875
    assert report["model"] == "tiny"
    assert report["last_metrics"] == (records[-1] if records else {})
    assert not {"scores", "labels", "query_aucs"} & set(report["after"])
    assert report["after"]["query_auc"] is None
    assert (tmp_path / PICTURE_FILE).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width = matplotlib.image.imread(tmp_path / PICTURE_FILE).shape[:2]
    assert 1000 < width < 3000
    assert 600 < height < 2000
    assert sorted(path.name for path in tmp_path.iterdir()) == [REPORT_FILE, PICTURE_FILE]


def test_a_later_probe_does_not_stand_for_the_one_before(tmp_path):
    write_report(tmp_path, [probe(3), probe(9, 0.875)], metrics(9), {})
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert report["before"] is None
    assert [found["step"] for found in report["probes"]] == [3, 9]


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@pytest.mark.parametrize("finite", [0, 2])
def test_scores_that_are_not_finite_leave_a_report_too(tmp_path, finite):
    scores = [*[0.25, -0.5][:finite], math.nan, math.inf, math.nan, math.nan][:4]
    diverged = dataclasses.replace(probe(3, math.nan), scores=scores)
    write_report(tmp_path, [probe(0), diverged], metrics(3), {})
    draw_report(tmp_path / PICTURE_FILE, [probe(0), diverged], metrics(3), CURVES)
    report = json.loads((tmp_path / REPORT_FILE).read_text(), parse_constant=refuse_constant)
    assert report["after"]["auc"] is None
    assert report["probes"][0]["auc"] == 0.5
    assert (tmp_path / PICTURE_FILE).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("steps", "headings"),
    [
        ([0], ["before"]),
        ([0, 9], ["before", "after 9 steps"]),
        ([0, 3, 9], ["before", "after 3 steps", "after 9 steps"]),
        ([9], ["after 9 steps"]),  # the first was lost
        ([3, 9], ["after 3 steps", "after 9 steps"]),
        ([0, 2, 4, 6, 9], ["before", "after 4 steps", "after 9 steps"]),
    ],
)
def test_the_table_has_what_was_before_and_what_came_after(steps, headings):
    table = before_after_table([probe(step, step / 10) for step in steps])
    assert [column.header for column in table.columns[1:]] == headings
    assert [list(column.cells)[2] for column in table.columns[1:]] == [
        f"{int(heading.split()[1]) / 10 if ' ' in heading else 0:.3f}" for heading in headings
    ]


def test_the_auc_within_queries_has_a_row_where_it_is_known():
    headings = [row[0] for row in before_after_rows([probe(0), probe(9)])[1]]
    assert "AUC within queries" not in headings
    rows = {name: values for name, *values in before_after_rows([probe(0), ordered(9, 1.0, 0.5)])[1]}
    assert rows["AUC within queries"] == ["-", "0.750"]  # an earlier version took the first probe


def test_the_auc_within_queries_is_in_the_report_and_the_picture(tmp_path):
    probes = [ordered(0, 0.5, 1.0), ordered(9, 1.0, 1.0)]
    write_report(tmp_path, probes, metrics(9), {})
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert [found["query_auc"] for found in report["probes"]] == [0.75, 1.0]
    pictures = []
    for drawn in (probes, [probe(0), probe(9)]):
        draw_report(tmp_path / PICTURE_FILE, drawn, metrics(9), CURVES)
        pictures.append((tmp_path / PICTURE_FILE).read_bytes())
    assert pictures[0] != pictures[1]
