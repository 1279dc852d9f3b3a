"""The jitted steps of both stages and of scoring, compiled for an NVIDIA H100 that is not there.

What runs is XLA's compiler for GPUs, which says what memory a program needs, and NVIDIA's assembler. No
kernel runs and none is tried out, so neither a number nor a speed is known of a GPU.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prorank_jax.aot.compile
from prorank_jax.aot.chips import parse_topology
from prorank_jax.aot.compile import compile_report
from prorank_jax.aot.estimate import estimate_step
from prorank_jax.aot.hlo import parse_program
from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.aot.programs import topology_mesh
from prorank_jax.aot.report import report_rows
from prorank_jax.config_files import load_config

TOPOLOGY = parse_topology("h100")
CONFIG = Path(__file__).parents[2] / "configs" / "gpu" / "qwen2.5-0.5b_h100.yaml"
KERNEL = re.compile(r'custom_call_target="__cudnn\$fmhaSoftmax(Backward)?"')
FLOATS = re.compile(r"\bf32\[([\d,]+)\]")
WIDTH, SHORTEST_LOGITS = 512, 128
# Key heads and their dimensions: gradients of keys may begin with those, and end in rows and places. Logits
# cannot: the model has 14 query heads.
BEGIN_OF_KEYS = [2, 64]


@pytest.mark.parametrize(
    # In stage 2 a list's shared start and its documents attend apart, and once more for the frozen model of
    # the KL term; the few completions of stage 1 attend without a kernel. No kernel runs twice.
    ("which", "forward", "backward"),
    [("score", 1, 0), ("1", 1, 1), ("2", 4, 2)],
)
def test_every_step_of_qwen_fits_one_h100(which: str, forward: int, backward: int, monkeypatch):
    config = load_config(CONFIG, {"stage": 2 if which == "2" else 1})
    shape = resolve_shape(config.model.source)
    texts: list[str] = []
    monkeypatch.setattr(
        prorank_jax.aot.compile, "parse_program", lambda text: texts.append(text) or parse_program(text)
    )
    report = compile_report(config, which, TOPOLOGY, shape)
    print("\n".join(f"{name}: {value}" for name, value in report_rows(report)))
    assert report.fits
    assert report.parameters == pytest.approx(494e6, rel=0.01)
    assert report.executed_flops is not None
    assert report.executed_flops >= 0.999 * report.model_flops
    assert report.unknown_loops == ()
    kernels = [found[1] for found in KERNEL.finditer(texts[0])]
    assert (kernels.count(None), kernels.count("Backward")) == (forward, backward)
    assert not logits(texts[0])
    assert report.hbm_bytes is not None
    assert report.hbm_bytes > report.parameters * 2
    assert report.sent_bytes == {}
    assert report.roofline is not None
    assert 0 < report.roofline.mfu <= 1
    if which != "score":  # by which the search leaves out what would not fit
        frozen = 4 * report.parameters if which == "2" else 0
        estimate = estimate_step(config, which, shape, TOPOLOGY.chip, report.mesh).bytes + frozen
        assert report.needed == pytest.approx(estimate, rel=0.15)


def logits(text: str) -> list[str]:
    """Float32 arrays that end in [queries, keys] of whole rows, which attention must not leave in memory."""
    sizes = ([int(size) for size in found.split(",")] for found in FLOATS.findall(text))
    return [
        str(shape)
        for shape in sizes
        if len(shape) >= 4
        and shape[-1] in range(WIDTH, WIDTH + 65)
        and shape[-2] >= SHORTEST_LOGITS
        and shape[:2] != BEGIN_OF_KEYS
    ]


def test_attention_for_tpus_is_refused_before_anything_is_compiled():
    config = load_config(CONFIG, {"stage": 1, "model.attention": "splash"})
    with pytest.raises(ValueError, match=r"splash.*TPU only, not on gpu"):
        topology_mesh(TOPOLOGY, config)
