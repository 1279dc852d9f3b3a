"""Growth curves: their points, a small real measurement, and what is written of it."""

from __future__ import annotations

import argparse
import dataclasses
import json

import jax
import pytest
from rich.console import Console

from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.benchmarks import growth, growth_step
from prorank_jax.benchmarks.growth import add_arguments, run
from prorank_jax.benchmarks.growth_pictures import draw_curves
from prorank_jax.benchmarks.growth_points import CURVES, PROGRAMS, Measured, Point, Size, points_of
from prorank_jax.benchmarks.growth_report import group_growth
from prorank_jax.benchmarks.growth_step import MeasuredStep, build, config_of, filled_state, prepare
from prorank_jax.storage_faults import TooLittleMemoryError
from tests.cpu.tiny_run import write_model_folder

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model"))


def arguments(*given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(part) for part in given])


def test_every_point_is_a_step_that_the_config_takes():
    points = points_of(PROGRAMS, 4096, 128)
    assert {(point.program, point.axis) for point in points} == set(CURVES)
    assert [point.value for point in points if point.axis == "group"] == [1, 2, 4, 8, 16, 32, 64]
    for point in points:
        config = config_of(point, {})
        assert getattr(point.size, point.axis) == point.value
        assert config.data.max_length == point.size.length
        assert config.train.batch_size == point.size.batch
        assert config.grpo.group_size == point.size.group


def test_a_curve_differs_in_one_size_only():
    for point in points_of(PROGRAMS, 512, 96):
        axis = point.axis
        fixed = {name: value for name, value in vars(point.size).items() if name != axis}
        same = [other for other in points_of([point.program], 512, 96) if other.axis == axis]
        assert all({k: v for k, v in vars(o.size).items() if k != axis} == fixed for o in same)


def test_a_shorter_longest_prompt_leaves_shorter_curves():
    lengths = [point.value for point in points_of(["score"], 1000, 128) if point.axis == "length"]
    assert lengths == [128, 256, 512]
    for longest in (128, 5000):
        with pytest.raises(ValueError, match=f"longest={longest}: from 256, .* to 4096"):
            points_of(["score"], longest, 128)
    with pytest.raises(ValueError, match="program='3'"):
        points_of(["3"], 256, 128)


def test_only_the_curves_that_are_asked_for_are_measured():
    points = points_of(PROGRAMS, 512, 128, ["length"])
    assert {(point.program, point.axis) for point in points} == {(of, "length") for of in ("1", "2", "score")}
    assert [point for point in points_of(PROGRAMS, 512, 128) if point.axis == "length"] == points
    assert len(points_of(["1"], 128, 128, ["group"])) == 7  # no length is asked for that could be too short
    with pytest.raises(ValueError, match="curves='group': none of the programs asked for"):
        points_of(["2"], 512, 128, ["group"])


@pytest.mark.parametrize("point", [Point("1", "group", 1, Size(group=1, batch=2, length=32))])
def test_a_step_trains_its_state_and_takes_time_and_memory(point, model_folder):
    shape = resolve_shape(str(model_folder))
    program = build(point, shape, {})
    step = prepare(program, point, shape)
    seconds, state = step.run(filled_state(program.arguments[0]))
    again, state = step.run(state)
    assert int(state.step) == 2
    assert min(seconds, again) > 0
    assert step.planned_bytes > 3 * 4 * program.parameters  # weights and two moments in float32


@pytest.mark.parametrize(
    ("attention", "complaint"), [("cudnn", "on NVIDIA GPUs only"), ("splash", "on TPU only")]
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_attention_that_the_device_lacks_is_refused_before_a_step_is_built(
    program, attention, complaint, model_folder
):
    options = {"model.attention": attention, "model.compute_dtype": "bfloat16"}
    with pytest.raises(ValueError, match=rf"model\.attention='{attention}': runs {complaint}, not on cpu"):
        build(Point(program, "", 0, Size(length=128)), resolve_shape(str(model_folder)), options)


def test_heads_that_an_attention_does_not_have_are_refused(model_folder, monkeypatch):
    """As on a GPU, where the implementation itself is there."""
    monkeypatch.setattr(growth_step, "check_implementation", lambda *_: None)
    shape = dataclasses.replace(resolve_shape(str(model_folder)), head_dim=12)
    with pytest.raises(ValueError, match="heads have 12 dimensions"):
        build(Point("1", "", 0, Size()), shape, {"model.attention": "cudnn"})


@pytest.fixture
def small_scoring(model_folder, tmp_path, monkeypatch):
    """The arguments of two rounds of two short curves, into `tmp_path / "out"`."""
    monkeypatch.setitem(CURVES, ("score", "batch"), ((1, 4), {}))
    monkeypatch.setitem(CURVES, ("score", "length"), ((32, 250), {"batch": 1}))
    return arguments(
        *("--model", model_folder, "--programs", "score", "--longest", 255, "--rounds", 2),
        *("--max_length", 32, "--output_dir", tmp_path / "out"),
    )


def test_curves_of_scoring_are_measured_and_written(small_scoring, tmp_path):
    run(small_scoring, Console(quiet=True))
    written = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert written["complete"] is True
    assert [(point["axis"], point["value"]) for point in written["points"]] == [
        *(("length", 32), ("length", 250)),
        *(("batch", 1), ("batch", 4)),
    ]
    for point in written["points"]:
        assert len(point["rounds"]) == 2
        assert 0 < point["seconds"]["min"] <= point["seconds"]["median"] <= point["seconds"]["max"]
        assert point["peak_bytes"] is None
    by_length = [point["planned_bytes"] for point in written["points"] if point["axis"] == "length"]
    assert by_length[1] > by_length[0]
    assert (tmp_path / "out" / "growth_scoring.png").read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match=r"output_dir=.*holds a result already"):
        run(small_scoring, Console(quiet=True))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 GiB"), TooLittleMemoryError),
    ],
)
def test_what_was_measured_before_an_end_is_kept(fault, told, small_scoring, tmp_path, monkeypatch, capsys):
    runs_left, run_step = iter(range(9)), MeasuredStep.run  # four to warm up, four of round 1, one of round 2

    def run_or_end(step, first):
        if next(runs_left, None) is None:
            raise fault
        return run_step(step, first)

    monkeypatch.setattr(MeasuredStep, "run", run_or_end)
    with pytest.raises(told) as ended:
        run(small_scoring)
    if told is TooLittleMemoryError:
        assert str(ended.value).endswith(
            "; lower --longest (255) or --max_length (32), or name fewer --curves"
        )
    written = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert written["complete"] is False
    assert [len(point["rounds"]) for point in written["points"]] == [1] * 4
    assert (tmp_path / "out" / "growth_scoring.png").read_bytes().startswith(PNG)
    assert "1 rounds of each point" in capsys.readouterr().out


def test_a_step_that_the_compiler_refuses_for_want_of_memory_names_what_helps(small_scoring, monkeypatch):
    """As a TPU's does, before anything runs."""
    told = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.58G of 15.75G hbm."

    def refuse(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError(told)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(TooLittleMemoryError, match=r"Used 20.58G of 15.75G hbm\); lower --longest"):
        run(small_scoring, Console(quiet=True))


def test_a_point_that_cannot_work_is_refused_before_any_is_measured(small_scoring, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "prepare", lambda *_, **__: pytest.fail("compiled"))
    small_scoring.programs, small_scoring.curves = ["score", "2"], ["batch"]
    small_scoring.max_length = 64
    with pytest.raises(ValueError, match=r"data\.max_length=64: lists are compiled with 64 shared tokens"):
        run(small_scoring, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_any_point_is_measured(
    small_scoring, tmp_path, monkeypatch
):
    monkeypatch.setattr(growth, "build", lambda *_: pytest.fail("built"))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match=r"output_dir=.*cannot be made \(File exists\); name another"):
        run(small_scoring, Console(quiet=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--rounds", 0), "rounds=0"),
        (("--dtype", "float16"), "dtype='float16'"),
        (("--attention", "flash"), "attention='flash'"),
        (("--remat", "some"), "remat='some'"),
        (("--programs", "serve"), "program='serve'"),
        (("--curves", "width"), "curves='width'"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_compute(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(arguments(*given, "--output_dir", tmp_path), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def measured(value: int, seconds: float, peak: int | None = None) -> Measured:
    point = Point("1", "group", value, Size(group=value))
    return Measured(point, (0.9 * seconds, seconds, 1.2 * seconds), 2**30, peak)


def test_growth_over_completions_is_a_ratio_of_medians():
    assert group_growth([measured(1, 2.0), measured(32, 2.5)]) == pytest.approx(1.25)
    assert group_growth([measured(1, 2.0), measured(16, 2.5)]) is None


@pytest.mark.parametrize("peak", [None, 3 * 2**30])
def test_pictures_are_drawn_with_and_without_peaks(peak):
    assert draw_curves([measured(1, 2.0, peak), measured(32, 2.5, peak)]).startswith(PNG)
