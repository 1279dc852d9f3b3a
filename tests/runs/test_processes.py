"""Two processes of four devices against one of eight: the same run, whoever stops, fails or goes on.

The processes are real, started through the launcher; the runs alone are made in this process, where equal
steps are one program.
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

import prorank_jax.processes
import prorank_jax.run_report
import prorank_jax.score_batches
import prorank_jax.training_loop
from prorank_jax.command_line import run_command
from prorank_jax.config_files import load_config
from prorank_jax.launching import Interrupted
from prorank_jax.metrics_log import METRICS_FILE, MetricsLog, read_lines
from prorank_jax.pretrained import open_pretrained
from prorank_jax.processes import succeed_together
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.run_report import PROBES_FILE
from prorank_jax.storage_faults import OutOfReachError
from prorank_jax.train import train
from tests.cpu.rough_pictures import drawing_roughly
from tests.cpu.shared_programs import sharing_programs
from tests.cpu.tiny_run import write_collection, write_model_folder
from tests.runs import scored_pairs
from tests.runs.observed_run import ENDED, ORDER
from tests.runs.several import STEPS, Processes, run_together, shared_fields, start, wait_for
from tests.runs.test_train import SPEEDS, at_step

STAGE_2 = {"stage": 2, "ranking__list_size": 4, "data__buckets": ()}
# Sums over devices are taken in another order by the network than in memory.
METRICS_RTOL, PARAMS_RTOL = 1e-5, 1e-5
DEVIATION = "score_deviation"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("several")
    write_model_folder(folder / "model")
    write_collection(folder / "collection")
    with pytest.MonkeyPatch.context() as patch, sharing_programs(), drawing_roughly():
        patch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
        yield folder


def run_alone(fields: dict[str, Any]) -> list[list[int]]:
    """Runs in this process; returns the examples of each batch that was fed."""
    fed: list[list[int]] = []
    put_batch = prorank_jax.training_loop.put_batch

    def watched(batch: Any, mesh: Any) -> Any:
        fed.append(batch.examples.tolist())
        return put_batch(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prorank_jax.training_loop, "put_batch", watched)
        train(load_config(None, fields), Console(file=io.StringIO(), width=120))
    return fed


@pytest.fixture(scope="module")
def alone(workshop) -> tuple[Path, list[list[int]]]:
    """The folder of a run in one process, and the examples it fed."""
    folder = workshop / "alone"
    return folder, run_alone(shared_fields(workshop, str(folder)))


def final_leaves(folder: Path) -> list[np.ndarray]:
    """The parameters as any user of the run would read them, on one device."""
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()) == STEPS
    return [np.asarray(leaf) for leaf in jax.tree.leaves(open_pretrained(str(folder)).load_params(None))]


def assert_same_deviation(mine: dict[str, float], expected: dict[str, float]) -> None:
    """Its square is the mean square less the squared mean: it is as exact as those, not as itself."""
    mean_square = expected["score"] ** 2 + expected[DEVIATION] ** 2
    assert abs(mine[DEVIATION] ** 2 - expected[DEVIATION] ** 2) <= METRICS_RTOL * mean_square


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in (METRICS_FILE, PROBES_FILE):
        mine, expected = read_lines(ours / name), read_lines(theirs / name)
        assert [record["step"] for record in mine] == [record["step"] for record in expected]
        for record, other in zip(mine, expected, strict=True):
            for key in set(record) - SPEEDS - {DEVIATION}:
                values = (np.array(one[key], float) for one in (record, other))  # null becomes NaN
                np.testing.assert_allclose(*values, rtol=METRICS_RTOL, atol=1e-6, err_msg=key)
            if DEVIATION in record:
                assert_same_deviation(record, other)
    assert [record["step"] for record in read_lines(ours / METRICS_FILE)] == list(range(1, STEPS + 1))
    for mine, expected in zip(final_leaves(ours), final_leaves(theirs), strict=True):
        scale = np.abs(expected).max()
        assert np.abs(mine - expected).max() <= PARAMS_RTOL * scale
    assert json.loads((ours / REPORT_FILE).read_text())["steps"] == STEPS


def fed_by(records: Path, count: int) -> list[list[int]]:
    """The examples of each step over all processes, in the order of the rows."""
    shares = [
        [json.loads(line) for line in (records / f"{number}.jsonl").read_text().splitlines()]
        for number in range(count)
    ]
    return [[example for share in step for example in share] for step in zip(*shares, strict=True)]


def lines_of(folder: Path) -> int:
    file = folder / METRICS_FILE
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
def test_sigterm_to_one_of_two_and_going_on_alone_from_a_url(workshop, alone, tmp_path, monkeypatch):
    """Each process has a cache of its own, so they share nothing but the URL; so has the one that goes on."""
    there = tmp_path / "bucket" / "run"
    fields = shared_fields(workshop, f"file://{there}")
    caches = [{"PRORANK_CACHE": str(tmp_path / f"machine{i}")} for i in range(2)]
    processes = Processes([fields] * 2, tmp_path / "records", caches)

    def first_two_steps_are_logged() -> bool:
        return any(lines_of(folder) >= 2 for folder in (tmp_path / "machine0" / "runs").glob("*"))

    processes.when(first_two_steps_are_logged, lambda started: started[1].send_signal(signal.SIGTERM))
    ended = processes.end()
    assert ended.codes == [143, 143], ended.said
    saved = max(int(path.name) for path in (there / "checkpoints").iterdir() if path.name.isdigit())
    assert saved < STEPS
    assert all(f"stopped after step {saved}" in said for said in ended.said)
    assert "held out after" not in ended.said[1]
    assert lines_of(there) == saved
    assert not (there / "lease.json").exists()
    folder, expected = alone
    assert fed_by(tmp_path / "records", 2) == expected[:saved]

    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "new machine"))
    assert run_alone(fields) == expected[saved:]
    assert_same_run(there, folder)


@pytest.mark.slow
def test_a_run_alone_goes_on_in_two_of_which_one_is_killed(workshop, alone, tmp_path, monkeypatch):
    fields = shared_fields(workshop, str(tmp_path / "run"))

    def stop() -> None:
        raise Interrupted

    monkeypatch.setattr(MetricsLog, "write", at_step(3, stop))
    with pytest.raises(Interrupted):
        run_alone(fields)
    monkeypatch.undo()
    monkeypatch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)

    processes = Processes([fields] * 2, tmp_path / "killed")
    processes.when(lambda: lines_of(tmp_path / "run") >= 4, lambda started: started[1].kill())
    killed_at = time.monotonic()
    codes = processes.end().codes
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert (
        time.monotonic() - killed_at < 130
    )  # no connection breaks while the other compiles: the heartbeat tells
    folder, expected = alone
    first = [(tmp_path / "killed" / f"{number}.jsonl").read_text().splitlines()[0] for number in range(2)]
    assert [example for share in first for example in json.loads(share)] == expected[2]

    ended = run_together(2, fields, tmp_path / "records")
    assert ended.codes == [0, 0], ended.said
    steps = fed_by(tmp_path / "records", 2)
    assert steps == expected[STEPS - len(steps) :]
    assert_same_run(tmp_path / "run", folder)


@pytest.mark.slow
def test_stage_2_in_two_processes_is_stage_2_in_one(workshop, tmp_path):
    expected = run_alone(shared_fields(workshop, str(tmp_path / "alone"), **STAGE_2))
    ended = run_together(2, shared_fields(workshop, str(tmp_path / "two"), **STAGE_2), tmp_path / "records")
    assert ended.codes == [0, 0], ended.said
    assert fed_by(tmp_path / "records", 2) == expected
    assert_same_run(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_the_devices_of_a_process_need_not_stand_together(workshop, alone, tmp_path):
    """As on eight chips in a ring over two hosts: the rows of one are then the first three and the last."""
    ring = (0, 1, 2, 4, 5, 6, 7, 3)
    fields = shared_fields(workshop, str(tmp_path / "ring"))
    environments = [{ORDER: json.dumps(ring)}] * 2
    ended = Processes([fields] * 2, tmp_path / "records", environments).end()
    assert ended.codes == [0, 0], ended.said
    folder, expected = alone
    for step, rows in zip(fed_by(tmp_path / "records", 2), expected, strict=True):
        assert step == [*rows[:3], rows[7], *rows[3:7]]
    assert_same_run(tmp_path / "ring", folder)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[], ["--tensor-across"]])
def test_scores_in_two_processes_are_those_of_one(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(
        prorank_jax.score_batches, "plan_flops", prorank_jax.score_batches.plan_flops
    )  # put back at the end
    script = str(Path(scored_pairs.__file__))
    ended = wait_for(start([[script, str(tmp_path / f"{i}.npy"), *layout] for i in range(2)]))
    assert ended.codes == [0, 0], ended.said
    expected = scored_pairs.scores_here()
    padded, packed = np.split(expected, 2)
    assert len(np.unique(padded)) > scored_pairs.PAIRS // 2
    np.testing.assert_allclose(packed, padded, atol=1e-5)
    for i in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{i}.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(("error", "code"), [(OutOfReachError("no answer"), 1), (ValueError("steps=0"), 2)])
def test_an_outage_that_one_process_met_is_one_for_all(error, code, monkeypatch, capsys):
    """Process 0 met it; process 1 hears of it."""
    said: list[str] = []

    def fail() -> None:
        with succeed_together():
            raise error

    def hear() -> None:
        with succeed_together():
            pass

    monkeypatch.setattr(prorank_jax.processes, "has_peers", lambda: True)
    monkeypatch.setattr(prorank_jax.processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        prorank_jax.processes, "gather_texts", lambda text: said.append(text) or [said[0], ""]
    )
    for process in (fail, hear):
        assert run_command(process) == code
        assert capsys.readouterr().err == f"error: process 0 of 2: {error}\n"


@pytest.mark.slow
def test_what_processes_do_not_agree_on_stops_all(workshop, tmp_path):
    """They have working folders of their own, so that a relative path means two places."""
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    shutil.copytree(workshop / "collection", places[0] / "collection")
    plain, never = (shared_fields(workshop, str(tmp_path / name)) for name in ("run", "never"))
    refusals = [
        (never, never | {"train.seed": 7}, "train.seed is 0 on process 0, 7 on process 1"),
        (never, never | {"train.stepz": 7}, "process 1 of 2: command line: unknown field train.stepz"),
        (
            plain | {"output_dir": "run"},
            plain | {"output_dir": "run"},
            "process 1 of 2: output_dir='run': does not show the files of process 0",
        ),
        (
            plain | {"data.source": "collection"},
            plain | {"data.source": "collection"},
            "process 1 of 2: data.source='collection': no such file or folder",
        ),
    ]
    fields = [[refusal[process] for refusal in refusals] for process in range(2)]
    ended = Processes(fields, tmp_path / "records", folders=places).end()
    assert ended.codes == [2, 2], ended.said
    for said in ended.said:
        parts = said.split(f"{ENDED} 2\n")
        assert len(parts) == len(refusals) + 1, said
        for part, (_, _, expected) in zip(parts, refusals, strict=False):
            assert expected in part, said
    assert not (tmp_path / "never").exists()
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not list((tmp_path / "records").iterdir())
