"""The estimate is the longest of three times on chips whose peaks are the published ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.aot.chips import CHIPS, Chip
from prorank_jax.aot.roofline import Roofline, roofline_of

# TFLOP/s in bfloat16, GB/s of HBM, GB/s of all links in both directions together. Cloud TPU documentation,
# "System architecture" of each chip's page: peak compute per chip (bf16), HBM bandwidth per chip,
# bidirectional inter-chip interconnect bandwidth (per chip). NVIDIA H100 data sheet, SXM: bfloat16 without
# sparsity, GPU memory bandwidth, NVLink.
PUBLISHED = {
    "v4": (275, 1200, None),
    "v5e": (197, 819, 400),
    "v5p": (459, 2765, 1200),
    "v6e": (918, 1638, 800),
    "tpu7x": (2307, 7380, 1200),
    "h100": (989, 3350, 900),
}


def times_of(chip: Chip, chips: int, executed: float, hbm: float, sent: float) -> Roofline:
    """Half of what is executed is the model's."""
    return roofline_of(
        chip,
        chips,
        model_flops=int(executed) // 2,
        executed_flops=int(executed),
        hbm_bytes=hbm,
        sent_bytes=sent,
        tokens=1000,
        prompts=10,
    )


def test_every_chip_has_published_peaks():
    assert set(PUBLISHED) == set(CHIPS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_second_is_what_a_published_peak_does_in_it(name):
    """Links send half of what they carry in both directions."""
    flops, hbm, both_ways = PUBLISHED[name]
    found = times_of(CHIPS[name], 4, 4 * flops * 10**12, hbm * 1e9, (both_ways or 0) * 1e9 / 2)
    assert (found.compute, found.hbm) == pytest.approx((1, 1))
    assert found.interconnect == (None if both_ways is None else pytest.approx(1))
    assert found.seconds == pytest.approx(1)
    assert found.mfu == pytest.approx(0.5)
    assert (found.tokens_per_second, found.prompts_per_second) == pytest.approx((1000, 10))


@pytest.mark.parametrize(
    ("times", "limited_by"), [((3, 1, 2), "compute"), ((1, 3, 2), "HBM"), ((1, 2, 3), "interconnect")]
)
def test_the_longest_time_limits(times, limited_by):
    chip = Chip(1000.0, 2**30, 200.0, 60.0, "none")
    compute, hbm, sent = times
    found = times_of(chip, 8, 8 * 1000 * compute, 200 * hbm, 30 * sent)
    assert (found.compute, found.hbm, found.interconnect) == times
    assert (found.seconds, found.limited_by) == (3, limited_by)
    assert found.mfu == pytest.approx(compute / 2 / 3)
    assert found.tokens_per_second == pytest.approx(1000 / 3)
    assert found.prompts_per_second == pytest.approx(10 / 3)


@given(
    st.sampled_from(sorted(CHIPS)),
    st.integers(1, 256),
    st.floats(1e9, 1e18),
    st.floats(0, 1e12),
    st.floats(0, 1e11),
)
def test_nothing_is_faster_than_any_of_the_peaks(name, chips, flops, hbm, sent):
    chip = CHIPS[name]
    found = times_of(chip, chips, flops, hbm, sent)
    slack = 1 + 1e-9
    assert int(flops) / found.seconds <= chips * chip.bf16_flops * slack
    assert hbm / found.seconds <= chip.hbm_bandwidth * slack
    assert chip.ici_bandwidth is None or 2 * sent / found.seconds <= chip.ici_bandwidth * slack
    assert 0 < found.mfu <= 0.5 * slack
