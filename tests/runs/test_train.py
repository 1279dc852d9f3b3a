"""A whole run of a tiny model: what it leaves, and that stopping and resuming changes no bit of it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from rich.console import Console

import prorank_jax.run_report
import prorank_jax.setup
import prorank_jax.training_loop
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config_files import load_config
from prorank_jax.launching import Interrupted
from prorank_jax.metrics_log import METRICS_FILE, MetricsLog, read_lines
from prorank_jax.report import PICTURE_FILE
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.run_page import PAGE_FILE
from prorank_jax.run_report import PROBES_FILE
from prorank_jax.sharding import make_mesh
from prorank_jax.train import train
from tests.cpu.shared_programs import sharing_programs
from tests.cpu.tiny_run import STEPS, tiny_fields, write_collection, write_model_folder
from tests.runs.killed_runs import saved_state

SPEEDS = {"prompts_per_second", "tokens_per_second", "model_tflops", "compilations"}
LOGGED = {"step", "reward", "format_rate", "accuracy", "entropy", "kl", "tied_groups", "clip_fraction"}
LOGGED |= {"grad_norm", "learning_rate", "prompts_per_second", "tokens_per_second", "compilations"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Iterator[Path]:
    """A folder with a model, a collection and compiled programs, for runs on one device."""
    folder = tmp_path_factory.mktemp("runs")
    write_model_folder(folder / "model")
    write_collection(folder / "collection")
    with pytest.MonkeyPatch.context() as patch, sharing_programs():
        patch.setattr(prorank_jax.setup, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
        patch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
        yield folder


def fields_of(workshop: Path, output_dir: Path) -> dict[str, Any]:
    return tiny_fields(workshop / "model", workshop / "collection", output_dir)


def run(workshop: Path, output_dir: Path) -> dict[str, Any]:
    console = Console(file=io.StringIO(), width=120)
    return train(load_config(None, fields_of(workshop, output_dir)), console)


@pytest.fixture(scope="module")
def keys_of_steps() -> dict[int, list[int]]:
    """What each step of the uninterrupted run drew its random numbers from."""
    return {}


@pytest.fixture(scope="module")
def uninterrupted(workshop, keys_of_steps) -> Path:
    folder, run_step = workshop / "uninterrupted", prorank_jax.training_loop.TrainingLoop._run_step

    def noted(loop: Any, step: int, key: jax.Array, *more: Any) -> None:
        keys_of_steps[step] = jax.random.key_data(key).tolist()
        run_step(loop, step, key, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prorank_jax.training_loop.TrainingLoop, "_run_step", noted)
        run(workshop, folder)
    return folder


OTHER_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{{ '<|im_start|>assistant\\n\\n' }}"
)


def final_state(output_dir: Path) -> Any:
    return saved_state(output_dir / "checkpoints" / str(STEPS))


def without_speeds(output_dir: Path) -> list[dict[str, Any]]:
    records = read_lines(output_dir / METRICS_FILE)
    return [{name: value for name, value in r.items() if name not in SPEEDS} for r in records]


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert without_speeds(ours) == without_speeds(theirs)
    assert read_lines(ours / PROBES_FILE) == read_lines(theirs / PROBES_FILE)
    mine, expected = jax.tree.leaves(final_state(ours)), jax.tree.leaves(final_state(theirs))
    assert len(mine) == len(expected) > 10
    for a, b in zip(mine, expected, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def at_step(step: int, act: Callable[[], None]) -> Callable[..., None]:
    """A `MetricsLog.write` that acts once the line of a step is written."""
    original = MetricsLog.write

    def write(log: MetricsLog, number: int, metrics: dict[str, float]) -> None:
        original(log, number, metrics)
        if number == step:
            act()

    return write


@pytest.mark.slow
def test_a_run_logs_every_step_and_reports(uninterrupted):
    records = read_lines(uninterrupted / METRICS_FILE)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert all(set(record) >= LOGGED for record in records)
    assert all(value is not None for record in records for value in record.values())
    assert [record["step"] for record in read_lines(uninterrupted / PROBES_FILE)] == [0, 12, 24]
    report = json.loads((uninterrupted / REPORT_FILE).read_text())
    assert report["before"]["step"] == 0
    assert report["after"]["step"] == STEPS
    assert (uninterrupted / PICTURE_FILE).stat().st_size > 10_000
    assert "few examples" in report["diagnosis"]  # of 12 queries
    page = (uninterrupted / PAGE_FILE).read_text()
    assert report["diagnosis"]["few examples"] in page
    assert page.count("data:image/png;base64,") == 1
    assert list((uninterrupted / "tensorboard").iterdir())


@pytest.mark.usefixtures("uninterrupted")
def test_each_step_has_random_numbers_of_its_own(keys_of_steps):
    seed = jax.random.key(0)
    expected = {step: jax.random.fold_in(seed, step) for step in range(1, STEPS + 1)}
    assert keys_of_steps == {step: jax.random.key_data(key).tolist() for step, key in expected.items()}
    assert len({tuple(key) for key in keys_of_steps.values()}) == STEPS


def test_nothing_is_compiled_after_the_warm_up(uninterrupted):
    counts = [record["compilations"] for record in read_lines(uninterrupted / METRICS_FILE)]
    assert counts[0] > 0
    assert len(set(counts[STEPS // 2 :])) == 1


def test_the_run_moves_the_parameters(uninterrupted):
    records = read_lines(uninterrupted / METRICS_FILE)
    assert len({record["grad_norm"] for record in records}) > STEPS // 2
    assert records[0]["learning_rate"] < records[2]["learning_rate"]


@pytest.mark.slow
def test_a_crash_and_a_sigterm_change_nothing(workshop, uninterrupted, monkeypatch):
    folder = workshop / "stopped"

    def crash() -> None:
        raise RuntimeError("crashed before the first checkpoint")

    monkeypatch.setattr(MetricsLog, "write", at_step(2, crash))
    with pytest.raises(RuntimeError, match="crashed"):
        run(workshop, folder)
    monkeypatch.undo()

    monkeypatch.setattr(MetricsLog, "write", at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted, match="stopped after step"):
        run(workshop, folder)
    monkeypatch.undo()
    assert len(read_lines(folder / METRICS_FILE)) < 8
    assert not (folder / REPORT_FILE).exists()
    for name in (METRICS_FILE, PROBES_FILE):  # as a full disk tears a line
        with (folder / name).open("a") as file:
            file.write('{"step": 3, "rew')

    run(workshop, folder)
    assert_same_run(folder, uninterrupted)
    assert (folder / REPORT_FILE).exists()


@pytest.mark.slow
def test_a_sigterm_behind_the_last_step_is_told_when_all_is_complete(workshop, monkeypatch):
    """It comes while the last checkpoint is being completed."""
    told, deadly = [], []
    wait = Checkpoints.wait

    def wait_and_be_told(checkpoints: Checkpoints) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait(checkpoints)

    before = signal.signal(signal.SIGTERM, lambda number, _: deadly.append(number))
    monkeypatch.setattr(Checkpoints, "wait", wait_and_be_told)
    fields = fields_of(workshop, workshop / "told late") | {"train.steps": 3}
    try:
        report = train(load_config(None, fields), Console(file=io.StringIO(), width=120), told=told)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM]
    assert deadly == []
    assert report["after"]["step"] == 3
    assert (workshop / "told late" / REPORT_FILE).exists()


@pytest.mark.slow
def test_a_run_goes_on_with_nothing_but_the_examples_it_began_with(workshop, tmp_path, monkeypatch):
    collection, folder = write_collection(tmp_path / "collection"), tmp_path / "run"
    model = Path(shutil.copytree(workshop / "model", tmp_path / "model"))
    fields = tiny_fields(model, collection, folder) | {"train.steps": 6}
    config = load_config(None, fields)

    def stop() -> None:
        raise Interrupted

    monkeypatch.setattr(MetricsLog, "write", at_step(5, stop))
    with pytest.raises(Interrupted):
        train(config, Console(quiet=True))
    monkeypatch.undo()
    lines = (folder / METRICS_FILE).read_bytes()
    for name, told in (("train", "data.source=.*the training examples"), ("dev", "the held-out examples")):
        file = collection / "qrels" / f"{name}.tsv"
        whole = file.read_text()
        file.write_text("".join(whole.splitlines(keepends=True)[:-1]))
        with pytest.raises(ValueError, match=f"{told} are not those of the checkpoint after step 4"):
            train(config, Console(quiet=True))
        assert (folder / METRICS_FILE).read_bytes() == lines
        file.write_text(whole)
    described = [folder / name for name in ("config.yaml", "tokenizer/chat_template.jinja")]
    kept = [file.read_bytes() for file in described]
    tokenizer = model / "tokenizer_config.json"
    written = tokenizer.read_text()
    tokenizer.write_text(json.dumps(json.loads(written) | {"chat_template": OTHER_TEMPLATE}))
    with pytest.raises(ValueError, match="the model's tokenizer and chat template"):
        train(config, Console(quiet=True))
    assert [file.read_bytes() for file in described] == kept
    tokenizer.write_text(written)
    architecture = model / "config.json"
    written = architecture.read_text()
    architecture.write_text(json.dumps(json.loads(written) | {"rms_norm_eps": 0.5}))
    with pytest.raises(ValueError, match=r"another architecture .*norm_eps is .* there, 0\.5 here"):
        train(config, Console(quiet=True))
    assert [file.read_bytes() for file in described] == kept
    architecture.write_text(written)
    assert train(config, Console(quiet=True))["steps"] == 6


@pytest.mark.slow
def test_a_finished_run_can_be_run_again(workshop, uninterrupted):
    kept = [METRICS_FILE, PROBES_FILE, "config.yaml"]
    before = [(uninterrupted / name).read_bytes() for name in kept]
    state = final_state(uninterrupted)
    first = json.loads((uninterrupted / REPORT_FILE).read_text())
    said = io.StringIO()
    report = train(load_config(None, fields_of(workshop, uninterrupted)), Console(file=said, width=120))
    assert report == first  # of the process that made the steps, not of this one
    assert "data: 12 queries; 24 steps x 4 prompts read each of 24 relevant ones 2.0 times" in said.getvalue()
    (uninterrupted / REPORT_FILE).write_text("{")
    assert run(workshop, uninterrupted)["probes"] == first["probes"]
    (uninterrupted / REPORT_FILE).write_text(json.dumps(first))
    assert [(uninterrupted / name).read_bytes() for name in kept] == before
    jax.tree.map(np.testing.assert_array_equal, final_state(uninterrupted), state)
    assert report["after"]["step"] == STEPS


@pytest.mark.slow
def test_a_run_that_trains_again_has_no_report_until_it_ends(workshop, uninterrupted, monkeypatch):
    """As after its last checkpoint was damaged: whoever finds a report takes the run for finished."""
    folder = Path(shutil.copytree(uninterrupted, workshop / "trained again"))
    reports = (REPORT_FILE, PICTURE_FILE, PAGE_FILE)
    assert all((folder / name).exists() for name in reports)
    shutil.rmtree(folder / "checkpoints" / str(STEPS))

    def stop() -> None:
        raise Interrupted

    monkeypatch.setattr(MetricsLog, "write", at_step(STEPS - 1, stop))
    with pytest.raises(Interrupted):
        run(workshop, folder)
    monkeypatch.undo()
    assert [name for name in reports if (folder / name).exists()] == []
    run(workshop, folder)
    assert_same_run(folder, uninterrupted)
    assert all((folder / name).exists() for name in reports)


@pytest.mark.slow
def test_a_report_is_there_only_when_its_page_and_picture_are(workshop, uninterrupted, monkeypatch):
    folder = Path(shutil.copytree(uninterrupted, workshop / "killed while reporting"))
    for name in (REPORT_FILE, PICTURE_FILE, PAGE_FILE):
        (folder / name).unlink()
    monkeypatch.setattr(prorank_jax.run_report, "render_run_page", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(workshop, folder)
    assert not (folder / REPORT_FILE).exists()


@pytest.mark.slow
def test_a_run_that_lost_its_first_probe_goes_on_and_says_nothing_of_before(workshop, uninterrupted):
    """As one does whose user deleted the damaged line."""
    folder = Path(shutil.copytree(uninterrupted, workshop / "half trained"))
    shutil.rmtree(folder / "checkpoints" / str(STEPS))
    lines = (folder / PROBES_FILE).read_text().splitlines(keepends=True)
    (folder / PROBES_FILE).write_text("".join(lines[1:]))
    said = io.StringIO()
    report = train(load_config(None, fields_of(workshop, folder)), Console(file=said, width=120))
    assert report["before"] is None
    assert [probe["step"] for probe in report["probes"]] == [12, 24]
    assert "lacks the probe of step 0" in said.getvalue()
    assert "before" not in re.sub(
        "before are not known", "", (folder / PAGE_FILE).read_text().split("<h3>")[0]
    )
    assert run(workshop, folder) == report
    shutil.copy(uninterrupted / PROBES_FILE, folder)
    assert run(workshop, folder)["before"]["step"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [PROBES_FILE, METRICS_FILE])
def test_a_finished_run_that_lost_what_it_logged_keeps_its_report(name, workshop, uninterrupted):
    folder = Path(shutil.copytree(uninterrupted, workshop / f"lost {name}"))
    report = (folder / REPORT_FILE).read_bytes()
    (folder / name).unlink()
    run(workshop, folder)
    assert (folder / REPORT_FILE).read_bytes() == report


@pytest.mark.slow
@pytest.mark.parametrize("name", [PROBES_FILE, METRICS_FILE])
def test_a_finished_run_without_report_that_lost_what_it_logged_gets_one(name, workshop, uninterrupted):
    """Or stage 2 would never start; the last probe is of the weights that are here."""
    folder = Path(shutil.copytree(uninterrupted, workshop / f"no report, no {name}"))
    first = json.loads((folder / REPORT_FILE).read_text())
    for lost in (name, REPORT_FILE):
        (folder / lost).unlink()
    report = run(workshop, folder)
    assert report["after"] == first["after"]
    assert report["before"] == (None if name == PROBES_FILE else first["before"])
    assert (report["median_model_tflops"] is None) is (name == METRICS_FILE)


@pytest.mark.slow
def test_the_work_of_a_step_is_less_beside_low_rank_factors(workshop):
    flops = []
    for rank in (0, 2):
        config = load_config(None, fields_of(workshop, workshop / "work") | {"lora.rank": rank})
        stage = prorank_jax.setup.prepare_run(config, Console(file=io.StringIO())).stage
        flops.append(stage.work(next(stage.batches())).flops)
    assert 2 / 3 < flops[1] / flops[0] < 1


@pytest.mark.slow
def test_a_run_whose_scores_are_no_numbers_leaves_a_report_that_is_json(workshop):
    folder = workshop / "no-numbers"
    fields = fields_of(workshop, folder) | {"optimizer.learning_rate": 1e30, "train.steps": 3}
    config = load_config(None, fields | {"optimizer.warmup_steps": 0})
    report = train(config, Console(file=io.StringIO(), width=120))
    assert report["after"]["auc"] is None
    assert "optimizer.learning_rate" in report["diagnosis"]["scores"]
    assert train(config, Console(file=io.StringIO(), width=120))["after"] == report["after"]
    for name in (METRICS_FILE, PROBES_FILE):
        assert "NaN" not in (folder / name).read_text()


@pytest.mark.slow
def test_numbers_gone_bad_stop_the_run_and_leave_its_checkpoint(workshop):
    folder = workshop / "diverged"
    # The first update is finite, and so large that nothing after it is.
    fields = fields_of(workshop, folder) | {"optimizer.learning_rate": 1e25, "train.max_skipped": 5}
    message = r"step 6: .*5 steps in a row.*the last batch held '.+/.+'"
    with pytest.raises(ValueError, match=message) as caught:
        train(load_config(None, fields), Console(file=io.StringIO(), width=120))
    assert "optimizer.learning_rate" in str(caught.value)
    records = read_lines(folder / METRICS_FILE)
    assert [record["skipped"] for record in records] == [0, 1, 1, 1, 1, 1]
    leaves = jax.tree.leaves(saved_state(folder / "checkpoints" / "4"))
    assert all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f")
