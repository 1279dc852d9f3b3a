"""Where a step's time goes: parts by path, time without what is inside, and a real trace of a small step."""

from __future__ import annotations

import argparse
import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.benchmarks import profile
from prorank_jax.benchmarks.growth_points import Point, Size
from prorank_jax.benchmarks.growth_step import build
from prorank_jax.benchmarks.profile import add_arguments, run
from prorank_jax.benchmarks.trace_parts import (
    AGAIN,
    BACKWARD,
    FORWARD,
    OTHER,
    Operation,
    module_name,
    operation_paths,
    own_time,
    part_of,
    time_by_part,
    traced_operations,
)
from prorank_jax.storage_faults import TooLittleMemoryError
from tests.cpu.tiny_run import write_model_folder

LAYER = "while/body/closed_call/layers"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (f"jit(step)/jvp(Transformer)/{LAYER}/mlp/down/dot_general", ("MLP", FORWARD)),
        (f"jit(step)/transpose(jvp(Transformer))/{LAYER}/mlp/mul", ("MLP", BACKWARD)),
        (
            f"jit(step)/jvp(Transformer)/{LAYER}/attention/query/dot_general",
            ("attention: projections", FORWARD),
        ),
        (f"jit(step)/jvp(Transformer)/{LAYER}/attention_norm/rsqrt", ("norms", FORWARD)),
        (
            f"jit(step)/transpose(jvp(Transformer))/{LAYER}/attention/layers/attention/checkpoint/"
            "rematted_computation/div",
            ("attention: softmax and rotation", AGAIN),
        ),
        ("jit(step)/jvp(Transformer)/Transformer._embed/gather", ("embedding", FORWARD)),
        ("jit(step)/jvp(Transformer.answer_logits)/dot_general", ("vocabulary head", FORWARD)),
        ("jit(step)/optimizer/mul", ("optimizer", FORWARD)),
        ("jit(step)/sampling/exp", ("sampling", FORWARD)),
        ("jit(step)/transpose(jvp(loss))/mul", ("loss", BACKWARD)),
        ("", (OTHER, FORWARD)),
    ],
)
def test_a_path_names_its_part_and_direction(path, part):
    assert part_of(path) == part


def test_time_inside_an_event_is_not_its_own():
    events = [(0.0, 100.0, "outer"), (10.0, 30.0, "first"), (12.0, 5.0, "inner"), (60.0, 20.0, "second")]
    own = {done.name: done.nanoseconds for done in own_time([*events, (100.0, 7.0, "after")])}
    assert own == {"outer": 50.0, "first": 25.0, "inner": 5.0, "second": 20.0, "after": 7.0}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=8))
def test_own_times_of_events_one_after_another_are_their_durations(gaps):
    start, events = 0, []
    for place, (gap, duration) in enumerate(gaps):
        start += gap
        events.append((start, duration, str(place)))
        start += duration
    assert [(done.name, done.nanoseconds) for done in own_time(events)] == [
        (name, duration) for _, duration, name in events
    ]


def test_operations_are_summed_by_part():
    paths = {"dot.1": "jit(f)/x/mlp/dot_general", "mul.2": "jit(f)/transpose(jvp(x))/mlp/mul"}
    operations = [
        Operation("dot.1", 5.0),
        Operation("dot.1", 6.0),
        Operation("mul.2", 2.0),
        Operation("?", 1.0),
    ]
    assert time_by_part(operations, paths) == {
        ("MLP", FORWARD): 11.0,
        ("MLP", BACKWARD): 2.0,
        (OTHER, FORWARD): 1.0,
    }


def test_a_trace_gives_back_the_operations_of_its_program(tmp_path):
    @jax.jit
    def program(x):
        with jax.named_scope("mlp"):
            x = x @ x
        with jax.named_scope("optimizer"):
            return jnp.sort(x, axis=0)

    x = jnp.ones((64, 64))
    compiled = program.lower(x).compile()
    jax.block_until_ready(compiled(x))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(compiled(x))
    text = compiled.as_text()
    operations = traced_operations(tmp_path, module_name(text))
    found = {part_of(operation_paths(text).get(done.name, ""))[0] for done in operations}
    assert {"MLP", "optimizer"} <= found
    with pytest.raises(ValueError, match="no operation of another is in it"):
        traced_operations(tmp_path, "another")
    with pytest.raises(ValueError, match="holds no trace"):
        traced_operations(tmp_path / "empty", "any")
    with pytest.raises(ValueError, match="is no compiled program"):
        module_name("func.func @main")


@pytest.mark.parametrize(("unplaced", "is_told"), [(0.08, False), (0.6, True)])
def test_much_time_that_cannot_be_placed_is_told(unplaced, is_told):
    found = {"seconds": [1.0], "model_flops": 1e9, "matmul_flops": 1e10, "unplaced": unplaced}
    assert (
        "; the place of 60% of the time is not known: it counts as other" in profile.summary(found)
    ) == is_told


@pytest.mark.parametrize(
    ("platform", "options"), [("gpu", {"xla_gpu_enable_command_buffer": ""}), ("tpu", None), ("cpu", None)]
)
def test_a_gpus_step_is_compiled_so_that_its_kernels_are_named(platform, options, tmp_path, monkeypatch):
    compiled_with: list[dict[str, str] | None] = []

    class Lowered:
        def compile(self, compiler_options):
            compiled_with.append(compiler_options)
            raise KeyboardInterrupt

    step = SimpleNamespace(trace=lambda *_: SimpleNamespace(lower=Lowered))
    program = build(Point("1", "", 0, Size()), resolve_shape(str(write_model_folder(tmp_path))), {})
    devices = np.array([SimpleNamespace(platform=platform)])
    mesh = SimpleNamespace(devices=devices, abstract_mesh=program.mesh.abstract_mesh)
    changed = dataclasses.replace(program, step=step, mesh=mesh)
    monkeypatch.setattr(profile, "build", lambda *_: changed)
    with pytest.raises(KeyboardInterrupt):
        run(arguments("--model", tmp_path), Console(quiet=True))
    assert compiled_with == [options]


def arguments(*given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(part) for part in given])


def test_the_time_of_a_small_step_is_told_by_part(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    output = tmp_path / "parts.json"
    given = arguments("--model", folder, "--batch", 2, "--max_length", 64, "--rounds", 2, "--output", output)
    found = run(given, Console(quiet=True))
    assert json.loads(output.read_text()) == found
    assert len(found["seconds"]) == 2
    longest = [operation["ms"] for operation in found["longest"]]
    assert longest == sorted(longest, reverse=True)
    for part in ("MLP", "attention: projections", "vocabulary head", "optimizer", "sampling"):
        assert sum(found["parts"][part].values()) > 0
    assert found["parts"]["MLP"][BACKWARD] > 0
    assert found["parts"]["attention: softmax and rotation"][AGAIN] > 0
    with pytest.raises(ValueError, match=r"output=.*is there already"):
        run(given, Console(quiet=True))


def test_prompts_of_different_lengths_are_profiled_in_the_rows_of_training(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    sizes = ("--model", folder, "--batch", 4, "--max_length", 64, "--rounds", 1)
    padded = run(arguments(*sizes), Console(quiet=True))
    in_rows = run(arguments(*sizes, "--shortest", 24, "--shared", 8), Console(quiet=True))
    # 24, 37, 51 and 64 tokens, of which 8 are there once: 152, in steps of 16.
    assert in_rows["shape"] == f"{padded['shape']}, in rows of 160 tokens, 8 of them for all"
    assert in_rows["model_flops"] < padded["model_flops"]
    assert in_rows["parts"]["MLP"][BACKWARD] > 0
    nearly_full = run(arguments(*sizes, "--shortest", 60), Console(quiet=True))
    assert nearly_full["shape"] == padded["shape"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--program", "3"), "program='3'"),
        (("--program", "2", "--shortest", 64), "shortest=64: with --program 1 only"),
        (("--shared", 8), "shared=8: with --shortest only"),
        (("--shortest", 129), "shortest=129: from 1 to max_length=128"),
        (("--shortest", 0), "shortest=0: from 1 to max_length=128"),
        (("--shortest", 24, "--shared", 24), r"shared=24: less than the shortest prompt \(24\)"),
        (("--shortest", 24, "--shared", -1), "shared=-1: less than"),
        (("--rounds", 0), "rounds=0"),
        (("--dtype", "half"), "dtype='half'"),
        (("--attention", "cudnn"), r"model\.attention='cudnn': runs on NVIDIA GPUs only"),
        (("--attention", "splash"), r"model\.attention='splash': runs on TPU only"),
        (("--output", "nowhere/parts.json"), "output='nowhere/parts.json': there is no folder 'nowhere'"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_compute(given, message):
    with pytest.raises(ValueError, match=message):
        run(arguments(*given), Console(quiet=True))


def test_a_step_that_finds_no_room_is_one_line_with_the_remedy(monkeypatch):
    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 GiB")

    monkeypatch.setattr(profile, "profile_step", full)
    with pytest.raises(TooLittleMemoryError, match=r"8 GiB\); lower --batch \(4\) or --max_length \(128\)$"):
        run(arguments("--batch", 4), Console(quiet=True))
