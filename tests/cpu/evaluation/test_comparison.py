"""Several systems side by side: what is tested against what, the table, and the picture."""

from __future__ import annotations

import itertools
import json
import re
from io import BytesIO, StringIO

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from prorank_jax.evaluation.comparison import (
    comparison_table,
    draw_comparison,
    standing_json,
    standings,
)
from prorank_jax.evaluation.metrics import MAIN_METRIC, METRICS
from prorank_jax.evaluation.significance import bootstrap_interval, compare
from tests.cpu.disk_order import DiskOrder

NAMES = ("BM25", "base", "stage 1+2")


def metrics_of(values) -> dict:
    """Made-up metrics of queries whose nDCG@10 is given; each other metric is another share of it."""
    return {
        metric: {query: value / (1 + place) for query, value in values.items()}
        for place, metric in enumerate(METRICS)
    }


@pytest.fixture(scope="module")
def systems() -> dict:
    rng = np.random.default_rng(0)
    return {
        name: metrics_of({f"q{number}": float(value) for number, value in enumerate(rng.random(30))})
        for name in NAMES
    }


def printed(table, width=80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def row_of(name: str, shown: str) -> list[str]:
    (line,) = [line for line in shown.splitlines() if re.match(rf"\W*{re.escape(name)} ", line)]
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_without_a_baseline_each_is_tested_against_the_first(systems):
    first, *others = standings(systems)
    assert (first.delta, first.p_value) == (None, None)
    for standing in others:
        expected = compare(systems[standing.name][MAIN_METRIC], systems["BM25"][MAIN_METRIC])
        assert (standing.delta, standing.p_value) == (expected.delta, expected.p_value)
    assert all(standing.to_baseline is None for standing in (first, *others))


@pytest.mark.parametrize("baseline", NAMES)
def test_with_a_baseline_each_other_is_tested_against_it_too(baseline, systems):
    chosen, plain = standings(systems, baseline), standings(systems)
    for standing, same in zip(chosen, plain, strict=True):
        assert (standing.delta, standing.p_value) == (same.delta, same.p_value)
        values, reference = (systems[name][MAIN_METRIC] for name in (standing.name, baseline))
        expected = None if standing.name == baseline else compare(values, reference)
        assert standing.to_baseline == expected


def test_a_baseline_that_is_no_system_is_refused_with_those_there_are(systems):
    with pytest.raises(ValueError, match=r"baseline='bse': .*name one of 'BM25', 'base', 'stage 1\+2'"):
        standings(systems, "bse")


def test_what_cannot_stand_side_by_side():
    with pytest.raises(ValueError, match="no system"):
        standings({})
    with pytest.raises(ValueError, match="the same"):
        standings({"a": metrics_of({"q": 1.0}), "b": metrics_of({"p": 1.0})})


def test_the_interval_of_a_standing_is_that_of_its_mean(systems):
    for standing in standings(systems):
        values = systems[standing.name][MAIN_METRIC].values()
        assert standing.interval == bootstrap_interval(np.array(list(values)))
        assert standing.interval[0] <= standing.mean <= standing.interval[1]


@pytest.mark.parametrize("baseline", [None, "base"])
def test_a_standing_comes_back_from_json(baseline, systems):
    for standing in standings(systems, baseline):
        content = standing_json(standing)
        assert json.loads(json.dumps(content)) == content
        assert content["metrics"] == {
            metric: pytest.approx(standing.mean / (1 + place)) for place, metric in enumerate(METRICS)
        }
        assert (content["to_baseline"] is None) == (standing.to_baseline is None)


def test_the_table_shows_the_differences_to_the_first_and_mrr(systems):
    shown = printed(comparison_table("t", standings(systems)))
    assert re.search(r"95% interval .*to BM25.* p .*MRR@10", shown)
    for standing in standings(systems):
        low, high = standing.interval
        row = [standing.name, f"{standing.mean:.3f}", f"{low:.3f} to {high:.3f}"]
        row += ["", ""] if standing.delta is None else [f"{standing.delta:+.3f}", f"{standing.p_value:.3f}"]
        assert row_of(standing.name, shown) == [*row, f"{standing.mean / 3:.3f}"]


def test_the_table_shows_the_differences_to_the_baseline_and_their_intervals(systems):
    ordered = standings(systems, "base")
    shown = printed(comparison_table("t", ordered, "base"))
    assert re.search(r"to base .*95% interval .* p .*MRR@10", shown)
    assert "to BM25" not in shown
    for standing in ordered:
        row, against = [standing.name, f"{standing.mean:.3f}"], standing.to_baseline
        if against is None:
            row += ["", "", ""]
        else:
            low, high = against.interval
            row += [f"{against.delta:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{against.p_value:.3f}"]
        assert row_of(standing.name, shown) == [*row, f"{standing.mean / 3:.3f}"]


def test_a_long_baseline_leaves_its_figures_whole(systems):
    long = "a model that was trained for rather a long time"
    named = {"BM25": systems["BM25"], long: systems["base"], "new": systems["stage 1+2"]}
    ordered = standings(named, long)
    shown = printed(comparison_table("t", ordered, long))
    low, high = ordered[2].to_baseline.interval
    for text in (f"{ordered[2].to_baseline.delta:+.3f}", f"{low:+.3f} to {high:+.3f}"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_names_are_text_and_no_markup():
    systems = {"first[/b]": metrics_of({"q": 0.0}), "base [old]": metrics_of({"q": 1.0})}
    for baseline in (None, "base [old]"):
        shown = printed(comparison_table("on [red]data[/b]", standings(systems, baseline), baseline))
        for name in ("on [red]data[/b]", "first[/b]", "base [old]"):
            assert name in shown


def drawn(systems, baseline, monkeypatch, tmp_path):
    """The axes of the picture, as they were when it was written."""
    from prorank_jax.evaluation import comparison as module

    figures, to_png = [], module.to_png

    def keep(figure):
        figures.append(figure)
        return to_png(figure)

    monkeypatch.setattr(module, "to_png", keep)
    draw_comparison(tmp_path / "picture.png", "t", standings(systems, baseline), baseline)
    assert matplotlib.image.imread(BytesIO((tmp_path / "picture.png").read_bytes())).shape[1] > 500
    return figures[0].axes[0]


@pytest.mark.parametrize(("baseline", "reference"), [(None, "BM25"), ("base", "base")])
def test_the_picture_tells_the_baseline_apart(baseline, reference, systems, monkeypatch, tmp_path):
    axes = drawn(systems, baseline, monkeypatch, tmp_path)
    labels = [text.get_text() for text in axes.texts]
    expected = []
    for standing in standings(systems, baseline):
        delta = standing.delta
        if baseline is not None:
            delta = None if standing.to_baseline is None else standing.to_baseline.delta
        expected.append(f"{standing.mean:.3f}" + ("" if delta is None else f"\n({delta:+.3f})"))
    assert labels == expected
    colors = [patch.get_facecolor() for patch in axes.patches]
    alone = colors[NAMES.index(reference)]
    assert colors.count(alone) == 1
    assert len(set(colors)) == 2
    assert reference in axes.get_xlabel()


def test_long_names_in_the_picture_do_not_run_into_each_other(systems, monkeypatch, tmp_path):
    names = ("a model with rather a long name", "another-one-of-the-same-length/without-blanks", "BM25")
    named = dict(zip(names, systems.values(), strict=True))
    axes = drawn(named, None, monkeypatch, tmp_path)
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_picture_is_on_the_disk_before_it_has_its_name(systems, monkeypatch, tmp_path):
    order = DiskOrder(monkeypatch)
    draw_comparison(tmp_path / "picture.png", "t", standings(systems))
    assert (order.named, order.too_early) == (1, [])


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    systems = {"a$_$b": metrics_of({"q": 0.5}), "x": metrics_of({"q": 0.25})}
    draw_comparison(tmp_path / "picture.png", "data $1 $2", standings(systems, "x"), "x")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
