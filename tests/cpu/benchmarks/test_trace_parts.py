"""Traces of devices, written as XLA writes them: there is no device here that records one."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from prorank_jax.benchmarks.trace_parts import traced_operations, unplaced_share


def write_trace(folder: Path, *planes: str) -> None:
    """A trace with planes in the text form of XLA's profiles."""
    text = "\n".join(f"planes {{ {plane} }}" for plane in planes)
    written = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
    (folder / "host.xplane.pb").write_bytes(written)


def event(name: int, start: int, duration: int, *stats: str) -> str:
    """An event with the name of a number and stats, in nanoseconds."""
    return (
        f"events {{ metadata_id: {name} offset_ps: {start}000 duration_ps: {duration}000 {' '.join(stats)} }}"
    )


def names(*told: str, kind: str = "event") -> str:
    return " ".join(
        f"{kind}_metadata {{ key: {number} value {{ id: {number} name: {json.dumps(name)} }} }}"
        for number, name in enumerate(told, 1)
    )


def test_a_tpus_operations_are_those_within_runs_of_the_program(tmp_path):
    """As a TPU's trace has them: an operation's name is its text, and says nothing of its program."""
    loop, inner, outer = 1, 2, 3
    told = names(
        "%while.3 = (s32[], f32[8]{0:T(256)}) while(%tuple.1), condition=%c, body=%b",
        "%fusion.7 = f32[8]{0:T(256)} fusion(%p), kind=kLoop, calls=%f",
        "copy.1",
        "jit_step(123)",
        "jit_step_other(5)",
    )
    write_trace(
        tmp_path,
        'name: "/device:TPU:0" '
        + told
        + ' lines { name: "XLA Modules" timestamp_ns: 50 '
        + " ".join((event(4, 0, 100), event(5, 150, 50), event(4, 300, 100)))
        + ' } lines { name: "XLA Ops" timestamp_ns: 50 '
        + " ".join(
            (
                *(event(loop, 0, 60), event(inner, 10, 20), event(inner, 30, 20), event(outer, 60, 40)),
                event(outer, 160, 7),  # of the other program
                event(outer, 250, 5),  # of none
                *(event(loop, 300, 60), event(inner, 310, 25)),
            )
        )
        + ' } lines { name: "Async XLA Ops" timestamp_ns: 50 '
        + event(inner, 0, 90)
        + " }",
        'name: "/host:CPU"',
    )
    done = traced_operations(tmp_path, "jit_step")
    assert [(each.name, each.nanoseconds) for each in done] == [
        *(("fusion.7", 20.0), ("fusion.7", 20.0), ("copy.1", 40.0), ("fusion.7", 25.0)),
    ]
    with pytest.raises(ValueError, match="no operation of another is in it"):
        traced_operations(tmp_path, "another")


def test_a_gpus_kernels_count_whether_they_are_named_or_not(tmp_path):
    """A nested name is its last part; what a loop itself ran waits; a CUDA graph's kernel says nothing."""
    stats = names(
        "hlo_op", "hlo_module", "while.1::dot.2", "while.1", "dot.5", "jit_step", "jit_x", kind="stat"
    )

    def of(operation: int, program: int = 6) -> tuple[str, str]:
        return (
            f"stats {{ metadata_id: 1 ref_value: {operation} }}",
            f"stats {{ metadata_id: 2 ref_value: {program} }}",
        )

    write_trace(
        tmp_path,
        f'name: "/device:GPU:0" {stats} {names("gemm_kernel")} '
        + 'lines { name: "Stream #7(Kernel)" timestamp_ns: 5 '
        + " ".join(
            (
                event(1, 0, 10, *of(3)),
                event(1, 10, 3, *of(4)),
                event(1, 20, 6, *of(5)),
                event(1, 30, 4, *of(5, 7)),
                event(1, 40, 8),
            )
        )
        + ' } lines { name: "Steps" timestamp_ns: 5 '
        + event(1, 0, 90)
        + " }",
        f'name: "/host:CPU" {names("cuLaunchKernel")} lines {{ name: "Stream #1" {event(1, 0, 70)} }}',
    )
    done = traced_operations(tmp_path, "jit_step")
    assert [(each.name, each.nanoseconds) for each in done] == [
        ("dot.2", 10.0),
        ("dot.5", 6.0),
        ("gemm_kernel", 8.0),
    ]
    assert unplaced_share(done, {"dot.2": "a/mlp/b", "dot.5": "c"}) == pytest.approx(8 / 24)
