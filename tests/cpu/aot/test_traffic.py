"""Bytes read from compiled programs: real ones of the CPU compiler, and what the TPU compiler writes."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from prorank_jax.aot.collectives import group_size, sent_bytes
from prorank_jax.aot.hlo import ArrayShape, Instruction, parse_program, parse_shapes
from prorank_jax.aot.loops import Scope, trip_count
from prorank_jax.aot.traffic import program_traffic

TPU_PROGRAM = (Path(__file__).parent / "tpu_program.hlo").read_text()
ROWS, WIDTH, DEVICES = 16, 24, 8


def collective_program(body, length: int) -> str:
    """The text of a compiled program that runs `body` on 8 simulated devices, `length` times."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("x",))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def run(x):
        return jax.lax.scan(lambda x, _: (body(x), None), x, length=length)[0]

    x = jax.ShapeDtypeStruct((DEVICES * ROWS, WIDTH), jnp.float32)
    return jax.jit(run).lower(x).compile().as_text()


SHARD_BYTES = ROWS * WIDTH * 4
BODIES = {
    "all-reduce": (lambda x: jax.lax.psum(x, "x") * 0.1, 2 * 7 / 8),
    "all-gather": (lambda x: jax.lax.all_gather(x, "x").sum(0) * 0.1, 7.0),
    "reduce-scatter": (
        lambda x: jnp.tile(jax.lax.psum_scatter(x, "x", scatter_dimension=0, tiled=True), (DEVICES, 1)),
        7 / 8,
    ),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True) + 1, 7 / 8),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % DEVICES) for i in range(DEVICES)]) + 1,
        1.0,
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_each_collective_sends_what_the_ring_formulas_say_as_often_as_the_loop_runs(kind):
    body, share = BODIES[kind]
    traffic = program_traffic(parse_program(collective_program(body, 5)), DEVICES)
    assert traffic.unknown_loops == []
    assert traffic.sent[kind] == pytest.approx(5 * share * SHARD_BYTES)


@given(st.sampled_from(["all-gather", "reduce-scatter", "all-to-all"]), st.integers(2, 64))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(kind, group):
    size = 64 * 63 * 1000
    whole = sent_bytes("all-reduce", size, group)
    halves = sent_bytes("reduce-scatter", size, group) + sent_bytes("all-gather", size // group, group)
    assert whole == pytest.approx(halves, rel=1e-4)
    assert 0 < sent_bytes(kind, size, group) <= whole * group


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups={}", 8),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", 4),
    ],
)
def test_group_sizes_in_every_notation(groups, size):
    line = Instruction(
        "all-reduce.1", "all-reduce", (), (), "", f", channel_id=1, {groups}, to_apply=%add", False
    )
    assert group_size(line, 8) == size


def test_unknown_groups_are_an_error():
    line = Instruction("all-reduce.1", "all-reduce", (), (), "", ", replica_groups=?", False)
    with pytest.raises(ValueError, match="unknown form"):
        group_size(line, 8)


def test_an_elementwise_step_reads_and_writes_its_array_once():
    x = jax.ShapeDtypeStruct((64, 100), jnp.float32)
    text = jax.jit(lambda x: jnp.exp(x) * 2 + 1).lower(x).compile().as_text()
    assert program_traffic(parse_program(text), 1).hbm == 2 * 64 * 100 * 4


BRANCHES = """HloModule choice

%nothing (a: f32[16]) -> f32[16] {
  ROOT %a = f32[16]{0} parameter(0)
}

%once (b: f32[16]) -> f32[16] {
  %b = f32[16]{0} parameter(0)
  ROOT %b.1 = f32[16]{0} negate(%b)
}

%twice (c: f32[16]) -> f32[16] {
  %c = f32[16]{0} parameter(0)
  %c.1 = f32[16]{0} negate(%c)
  ROOT %c.2 = f32[16]{0} negate(%c.1)
}

ENTRY %main (which: s32[], x: f32[16]) -> f32[16] {
  %which = s32[] parameter(0)
  %x = f32[16]{0} parameter(1)
  ROOT %chosen = f32[16]{0} conditional(%which, %x, %x), CHOICE
}
"""


@pytest.mark.parametrize(
    ("choice", "times"),
    [
        ("true_computation=%twice, false_computation=%once", 1),
        ("branch_computations={%once, %twice}", 1),
        ("branch_computations={%twice, %nothing}", 2),
        ("branch_computations={%nothing, %nothing}", 0),
    ],
)
def test_of_a_choice_the_way_counts_that_moves_least_but_something(choice, times):
    program = parse_program(BRANCHES.replace("CHOICE", choice))
    assert program_traffic(program, 1).hbm == times * 2 * 16 * 4  # read and written


def test_shapes_with_tiles_and_memory_spaces():
    (shape,) = parse_shapes("bf16[32,512,2,64]{1,3,2,0:T(8,128)(2,1)S(1)}")
    assert shape == ArrayShape("bf16", (32, 512, 2, 64), (1, 3, 2, 0), (8, 128), 1)
    assert shape.hbm_bytes == 0
    assert shape.padded_bytes == shape.bytes == 32 * 512 * 2 * 64 * 2
    (narrow,) = parse_shapes("f32[10,3]{1,0:T(8,128)}")
    assert narrow.bytes == 10 * 3 * 4
    assert narrow.hbm_bytes == 16 * 128 * 4
    assert [s.dtype for s in parse_shapes("(s32[], (pred[4]{0}, u32[]{:S(2)}))")] == ["s32", "pred", "u32"]
    assert parse_shapes("f8e4m3fn[16]")[0].bytes == 16
    assert parse_shapes("s4[16]")[0].bytes == 8
    assert parse_shapes("token[]")[0].bytes == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
def test_padding_never_takes_away_and_fills_whole_tiles(dims, data):
    order = tuple(data.draw(st.permutations(range(len(dims)))))
    tile = (8, 128)[-min(2, len(dims)) :]
    shape = ArrayShape("f32", tuple(dims), order, tile)
    assert shape.padded_bytes >= shape.bytes
    assert shape.padded_bytes % (4 * int(np.prod(tile))) == 0


def loops(program) -> list[int | None]:
    scope = Scope(program.entry)
    return [trip_count(program, line, scope) for line in program.entry if line.opcode == "while"]


def test_loops_without_a_written_count_are_followed_to_their_constants():
    """A counter from 2 in steps of 3 below 12, whose bound is carried through the loop."""
    assert loops(parse_program(TPU_PROGRAM)) == [4]


def test_a_loop_whose_bound_is_computed_counts_once_and_is_named():
    text = TPU_PROGRAM.replace("%bound = s32[] constant(12)", "%bound = s32[] add(%start, %start)")
    program = parse_program(text)
    assert loops(program) == [None]
    traffic = program_traffic(program, 8)
    assert traffic.unknown_loops == ["loop"]
    known = program_traffic(parse_program(TPU_PROGRAM), 8)
    assert traffic.sent["all-gather"] == known.sent["all-gather"] / 4


def test_a_collective_spread_over_several_fusions_counts_once_for_each_turn():
    sent = program_traffic(parse_program(TPU_PROGRAM), 8).sent
    assert sent["all-gather"] == 4 * 7 * (8 * 128 * 2)


def test_a_reduce_scatter_in_disguise_is_one():
    sent = program_traffic(parse_program(TPU_PROGRAM), 8).sent
    assert sent["reduce-scatter"] == 64 * 128 * 4 * 7 / 8
    assert "all-reduce" not in sent


def test_bytes_of_each_kind_of_instruction():
    """By hand: per turn a slice of the stack, an update in place, and the gathered weight's two ends."""
    per_turn = (
        8 * 128 * 2  # the slice that is read of [12, 8, 128]; it is written to on-chip memory
        + 64 * 128 * 2  # the gathered weight, written to HBM by the start
        + 64 * 128 * 2  # read by the product, whose other operand is on the chip
        + 16 * 128 * 4  # the product, written
        + 2 * 16 * 128 * 4  # read and put into its place in [12, 16, 128]
    )
    once = 64 * 128 * 4 + 8 * 128 * 4  # the reduce-scatter
    copied = 16 * 128 * 4  # from HBM to the chip: read only
    assert program_traffic(parse_program(TPU_PROGRAM), 8).hbm == 4 * per_turn + once + copied


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no entry computation"):
        parse_program("hello")
