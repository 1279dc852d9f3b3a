"""The machine's speed is measured, but with small products: large ones take seconds of every core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import prorank_jax.flops


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prorank_jax.flops, "_CPU_PEAK", (64, 4))
        yield
