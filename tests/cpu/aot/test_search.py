"""The search compiles little, recommends only what fits, and of what it compiled the fastest."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.aot.advice import advise, as_arguments, knobs, with_changes
from prorank_jax.aot.chips import CHIPS, parse_topology
from prorank_jax.aot.estimate import Estimate
from prorank_jax.aot.search import MEMORY_DOUBT, Candidate, candidates, mesh_shapes, search
from tests.cpu.aot.reports import CONFIG, QWEN, make_report

V5E_8 = parse_topology("v5e:2x4")


@pytest.mark.parametrize("devices", [1, 4, 8, 256])
def test_meshes_use_every_device_and_split_the_model_evenly(devices):
    shapes = list(mesh_shapes(devices, QWEN))
    assert shapes
    for mesh in shapes:
        assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == devices
        assert QWEN.dim % mesh["fsdp"] == 0
        assert QWEN.kv_heads % mesh["tensor"] == 0
    assert {"data": devices, "fsdp": 1, "tensor": 1} in shapes


@pytest.mark.parametrize("which", ["1", "2"])
def test_candidates_are_configs_that_fit_the_mesh_the_most_promising_first(which):
    config = dataclasses.replace(CONFIG, stage=int(which))
    found = candidates(config, which, V5E_8, QWEN, grow=False)
    assert len(found) > 5
    times = [each.seconds_per_row for each in found]
    assert times == sorted(times)
    for each in found:
        assert each.config.train.batch_size == 256
        ways = each.changes["mesh.data"] * each.changes["mesh.fsdp"]
        assert 256 % (ways * each.config.train.accumulation) == 0
        assert with_changes(config, each.changes) == each.config
    grown = candidates(config, which, V5E_8, QWEN, grow=True)
    assert {each.config.train.batch_size for each in grown} >= {256, 512}


def test_advice_names_knobs_that_save_memory_and_can_be_pasted():
    config = with_changes(CONFIG, {"model.remat": "none"})
    assert config is not None
    mesh = {"data": 1, "fsdp": 8, "tensor": 1}
    found = advise(config, "1", QWEN, CHIPS["v5e"], mesh, 40 * 2**30)
    assert {"model.remat": "full"} in [changes for changes, _ in found]
    assert {"train.batch_size": 128} in [changes for changes, _ in found]
    for changes, sentence in found:
        assert with_changes(config, changes) is not None
        assert sentence.startswith(as_arguments(changes))
    assert as_arguments({"mesh.data": 1, "mesh.fsdp": 8}) == "--mesh.data 1 --mesh.fsdp 8"
    sharding = knobs(CONFIG, QWEN, CHIPS["v5e"], {"data": 8, "fsdp": 1, "tensor": 1})
    assert {"mesh.data": 1, "mesh.fsdp": 8} in sharding
    uneven = knobs(CONFIG, QWEN, CHIPS["v5e"], {"data": 16, "fsdp": 16, "tensor": 1})
    assert all("mesh.fsdp" not in each for each in uneven)


@pytest.mark.parametrize(("topology", "kernel"), [("v5e:1x1", "splash"), ("h100:1", "cudnn")])
def test_only_attention_that_the_chip_has_is_advised_and_tried(topology, kernel):
    slice_ = parse_topology(topology)
    advised = knobs(CONFIG, QWEN, slice_.chip, {"data": 1, "fsdp": 1, "tensor": 1})
    assert [each for each in advised if "model.attention" in each] == [{"model.attention": kernel}]
    found = candidates(CONFIG, "1", slice_, QWEN, grow=False)
    assert {each.config.model.attention for each in found} == {"xla", kernel}


def test_a_search_counts_only_the_share_of_a_gpu_that_jax_takes():
    half = dataclasses.replace(CHIPS["h100"], taken_share=CHIPS["h100"].taken_share / 2)
    assert half.device_bytes * 2 == CHIPS["h100"].device_bytes == 60 * 10**9
    found = candidates(CONFIG, "1", parse_topology("h100"), QWEN, grow=True)
    assert max(each.estimate.bytes for each in found) <= CHIPS["h100"].device_bytes * MEMORY_DOUBT


Settings = st.lists(
    st.tuples(st.floats(1, 10), st.floats(1, 10), st.booleans(), st.floats(0, 1)), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(Settings)
def test_the_search_recommends_the_fastest_it_compiled_and_stops_in_time(drawn):
    """Each draw: estimated seconds, estimated memory, whether it fits, how much slower than estimated."""
    drawn = sorted(drawn)
    configs = [dataclasses.replace(CONFIG, output_dir=str(i)) for i in range(len(drawn))]
    ordered = [
        Candidate(config, {"output_dir": config.output_dir}, Estimate(memory, seconds))
        for config, (seconds, memory, _, _) in zip(configs, drawn, strict=True)
    ]
    compiled = []

    def compile_candidate(config):
        seconds, _, fits, slower = drawn[int(config.output_dir)]
        compiled.append(int(config.output_dir))
        return make_report(seconds=seconds * (1 + slower), fits=fits)

    best = search(ordered, compile_candidate, most_compiled=4)
    assert 1 <= len(compiled) <= 4
    assert compiled == sorted(set(compiled))
    fitting = {i: drawn[i][0] * (1 + drawn[i][3]) for i in compiled if drawn[i][2]}
    if not fitting:
        assert best is None
        return
    assert best is not None
    assert fitting[int(best[0].config.output_dir)] == min(fitting.values())


def test_a_candidate_that_needs_more_than_what_was_refused_is_skipped():
    ordered = [
        Candidate(dataclasses.replace(CONFIG, output_dir=str(i)), {}, Estimate(memory, 1.0 + i))
        for i, memory in enumerate([5.0, 7.0, 4.0])
    ]
    compiled = []

    def compile_candidate(config):
        compiled.append(config.output_dir)
        return make_report(seconds=9.0, fits=config.output_dir == "2")

    best = search(ordered, compile_candidate)
    assert compiled == ["0", "2"]
    assert best is not None
