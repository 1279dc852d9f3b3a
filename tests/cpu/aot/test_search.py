"""The search compiles little, recommends only what fits, and of what it compiled the fastest."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank_jax.aot.advice import advise, as_arguments, knobs, with_changes
from prorank_jax.aot.chips import CHIPS, parse_topology
from prorank_jax.aot.estimate import Estimate, estimate_step
from prorank_jax.aot.model_shapes import PUBLISHED_SHAPES
from prorank_jax.aot.programs import SHARED_TOKENS
from prorank_jax.aot.roofline import roofline_bound
from prorank_jax.aot.search import MEMORY_DOUBT, Candidate, candidates, mesh_shapes, search
from prorank_jax.config import REMAT_POLICIES
from prorank_jax.config_files import config_from_flat
from prorank_jax.flops import ranking_step_flops
from tests.cpu.aot.reports import make_report

QWEN = PUBLISHED_SHAPES["Qwen/Qwen2.5-0.5B-Instruct"]
CONFIG = config_from_flat(
    {
        "model.compute_dtype": "bfloat16",
        "model.remat": "full",
        "data.max_length": 512,
        "train.batch_size": 256,
        "mesh.data": 1,
        "mesh.fsdp": 8,
    }
)
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


def stage_2_seconds(**changes: Any) -> float:
    config = with_changes(dataclasses.replace(CONFIG, stage=2), changes)
    assert config is not None
    return estimate_step(config, "2", QWEN, CHIPS["v5e"], {"data": 8, "fsdp": 1, "tensor": 1}).seconds


@pytest.mark.parametrize("low_rank", [0, 4])
@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"ranking.kl_coefficient": 0.1}, 1),
        ({"ranking.losses": "listwise=1, preference=0.5"}, 1),
        ({"ranking.losses": "preference=1", "ranking.kl_coefficient": 0.1}, 1),
        ({"ranking.losses": "pairwise=1"}, 0),
    ],
)
def test_a_reference_costs_stage_2_another_forward_pass(changes: dict[str, Any], passes: int, low_rank: int):
    seconds = functools.partial(stage_2_seconds, **{"lora.rank": low_rank})
    sizes = (CONFIG.train.batch_size, CONFIG.ranking.documents, SHARED_TOKENS, 512 - SHARED_TOKENS)
    bare, with_reference = (ranking_step_flops(QWEN, *sizes, uses_reference=used) for used in (False, True))
    peak = 8 * CHIPS["v5e"].bf16_flops / CHIPS["v5e"].devices
    assert seconds(**changes) - seconds() == pytest.approx(passes * (with_reference - bare) / peak)


def test_a_format_term_costs_one_more_token_of_each_prompt_in_the_last_layer():
    bare = stage_2_seconds()
    assert 0 < stage_2_seconds(**{"ranking.format_coefficient": 0.1}) - bare < bare / 1000


def test_the_rough_model_orders_what_is_known():
    """Less is kept, more is computed: the policies from left to right."""

    def estimate(**changes: Any) -> Estimate:
        config = with_changes(CONFIG, changes)
        assert config is not None
        return estimate_step(config, "1", QWEN, CHIPS["v5e"], {"data": 1, "fsdp": 8, "tensor": 1})

    memory = [estimate(**{"model.remat": name}).bytes for name in REMAT_POLICIES]
    assert memory == sorted(memory, reverse=True)
    named = [
        estimate(**{"model.remat": name}).seconds for name in ("none", "mlp", "gate", "attention", "full")
    ]
    assert named == sorted(named)
    assert estimate(**{"model.remat": "dots_no_batch"}).seconds < named[-1]
    assert estimate(**{"train.batch_size": 128}).bytes < estimate().bytes
    assert estimate(**{"train.batch_size": 128}).seconds == pytest.approx(estimate().seconds / 2, rel=0.2)


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


@given(
    st.sampled_from(sorted(CHIPS)),
    st.integers(1, 256),
    st.floats(1e9, 1e18),
    st.floats(1.0, 2.0),
    st.floats(0, 1e12),
    st.floats(0, 1e11),
)
def test_the_bound_is_the_longest_of_the_three_and_mfu_follows(name, chips, flops, more, hbm, sent):
    chip = CHIPS[name]
    bound = roofline_bound(
        chip,
        chips,
        model_flops=int(flops),
        executed_flops=int(flops * more),
        hbm_bytes=hbm,
        sent_bytes=sent,
        tokens=1000,
        prompts=10,
    )
    assert bound.seconds == max(bound.compute, bound.hbm, bound.interconnect or 0.0)
    assert 0 < bound.mfu <= 1 / more + 1e-6
    assert bound.tokens_per_second == pytest.approx(100 * bound.prompts_per_second)
    if chip.ici_bandwidth is None:
        assert bound.interconnect is None
