"""metrics.jsonl after kills and resumes, and what else a run shows."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from prorank_jax.metrics_log import (
    METRICS_FILE,
    CompilationCounter,
    MetricsLog,
    completions_table,
    keep_lines_up_to,
    read_lines,
)


def steps_in(folder) -> list[int]:
    return [record["step"] for record in read_lines(folder / METRICS_FILE)]


def test_lines_after_the_step_a_run_resumes_from_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"reward": step / 8})
    log.close()
    log = MetricsLog(tmp_path, 3)
    assert steps_in(tmp_path) == [1, 2, 3]
    log.write(4, {"reward": 0.5})
    log.close()
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    assert read_lines(tmp_path / METRICS_FILE)[-1] == {"step": 4, "reward": 0.5}


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "rew', '{"step": 3}', '{"step', "3", '"st', b"\xc3", b"\0\0\0\0"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    file = tmp_path / METRICS_FILE
    torn = torn.encode() if isinstance(torn, str) else torn
    file.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
    keep_lines_up_to(file, 2)
    assert steps_in(tmp_path) == [1, 2]
    assert file.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "damaged", ['{"step": 2, "rew', '{"reward": 1}', '{"step": "2"}', "3", b"\xc3", b"\0\0"]
)
def test_a_damaged_line_costs_none_of_those_behind_it(tmp_path, damaged):
    file = tmp_path / METRICS_FILE
    damaged = damaged.encode() if isinstance(damaged, str) else damaged
    content = b'{"step": 1}\n' + damaged + b'\n{"step": 3}\n'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: damaged .* delete that line"):
        keep_lines_up_to(file, 9)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "last", ['{"step": 2}', '{"step": 2}\n', '{"step": 2}\n\n', '{"step": 2}\n{"step": 3}']
)
def test_a_whole_line_is_kept_however_the_file_ends(tmp_path, last):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n' + last)
    keep_lines_up_to(tmp_path / METRICS_FILE, 2)
    assert (tmp_path / METRICS_FILE).read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_line_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"st\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not JSON"):
        read_lines(tmp_path / METRICS_FILE)


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    keep_lines_up_to(tmp_path / METRICS_FILE, 3)
    assert not list(tmp_path.iterdir())
    assert read_lines(tmp_path / METRICS_FILE) == []


def test_what_json_cannot_say_becomes_null(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"reward": math.nan, "kl": math.inf, "entropy": -math.inf, "loss": 0.25})
    log.close()
    line = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(line) == {"step": 1, "reward": None, "kl": None, "entropy": None, "loss": 0.25}
    assert "NaN" not in line


def test_compilations_are_counted_once_each():
    counter = CompilationCounter()
    double = jax.jit(lambda x: 2 * x)
    for width in (3, 3, 5, 3):
        double(jnp.zeros(width)).block_until_ready()
    after = counter.count
    assert after >= 2
    double(jnp.zeros(5)).block_until_ready()
    assert counter.count == after


def test_completions_are_shown_as_they_are(tmp_path):
    texts = {1: "1", 2: "[bold]0"}
    table = completions_table(
        3, [[[1], [2], [1]]], [1], ["[red]query"], lambda tokens: "".join(texts[t] for t in tokens)
    )
    with (tmp_path / "shown.txt").open("w") as file:
        Console(file=file, width=100).print(table)
    shown = (tmp_path / "shown.txt").read_text()
    assert "[red]query" in shown
    assert "'1' (2)" in shown
    assert "'[bold]0' (1)" in shown
