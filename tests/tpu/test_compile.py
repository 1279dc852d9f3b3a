"""The jitted steps of both stages and of scoring, compiled for eight TPU v5e chips that are not there.

What runs is the compiler: it refuses a program that does not fit, and says what memory one needs; here with
least effort, which changes that by a few percent: `make aot` says what fast programs need. No speed is
measured here, and nothing is known of a TPU that these tests did not see.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import prorank_jax.aot.compile
from prorank_jax.aot.chips import parse_topology
from prorank_jax.aot.compile import compile_program, compile_report
from prorank_jax.aot.hlo import parse_program
from prorank_jax.aot.memory import refusal
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.report import report_rows
from prorank_jax.config_files import load_config
from prorank_jax.sharding import make_mesh
from tests.tpu.effort import LEAST_EFFORT

TOPOLOGY = parse_topology("v5e:2x4")
CONFIG = Path(__file__).parents[2] / "configs" / "tpu" / "qwen2.5-0.5b_v5e-8.yaml"


@pytest.mark.parametrize(("which", "kernels"), [("score", 1), ("1", 2), ("2", 3)])
def test_every_step_of_qwen_fits_eight_chips(which: str, kernels: int, monkeypatch, record_property):
    config = load_config(CONFIG, {"stage": 2 if which == "2" else 1})
    texts: list[str] = []
    monkeypatch.setattr(
        prorank_jax.aot.compile, "parse_program", lambda text: texts.append(text) or parse_program(text)
    )
    quick = partial(compile_program, compiler_options=LEAST_EFFORT)
    monkeypatch.setattr(prorank_jax.aot.compile, "compile_program", quick)
    report = compile_report(config, which, TOPOLOGY, resolve_shape(config.model.source))
    print("\n".join(f"{name}: {value}" for name, value in report_rows(report)))
    record_property("compile_seconds", report.compile_seconds)
    record_property("bytes_per_chip", report.needed)
    assert report.fits
    assert report.parameters == pytest.approx(494e6, rel=0.01)
    assert report.executed_flops is not None
    assert report.executed_flops >= 0.999 * report.model_flops
    assert report.unknown_loops == ()
    # Splash attention forward, and one fused backward; in stage 2 also forward for the frozen model of the KL
    # term: nothing runs twice.
    assert [text.count('custom_call_target="tpu_custom_call"') for text in texts] == [kernels]
    # Nothing can train or score without reading its weights once, nor gather them for nothing.
    assert report.hbm_bytes is not None
    assert report.hbm_bytes > report.parameters * 2
    assert sum((report.sent_bytes or {}).values()) > report.parameters * 2 * 0.5
    assert report.roofline is not None
    assert 0 < report.roofline.mfu <= 1


def test_the_compilers_refusal_is_understood():
    config = load_config(None, {"mesh.data": 8})
    mesh = make_mesh(config.mesh, topologies.get_topology_desc(**TOPOLOGY.description).devices)
    whole = NamedSharding(mesh, PartitionSpec())
    square = jax.ShapeDtypeStruct((50_000, 50_000), jnp.float32, sharding=whole)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda x: jnp.sin(x @ x) + x.T).lower(square).compile()
    refused = refusal(str(caught.value))
    assert refused is not None
    assert refused.used > TOPOLOGY.chip.hbm_bytes > refused.available > 15 * 2**30
