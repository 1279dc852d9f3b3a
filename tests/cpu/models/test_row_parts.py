"""Attention of a few rows after the others is attention of all; where that is done, and where not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from prorank_jax.models import plain, row_parts
from prorank_jax.models.plain import CausalBlocks, causal_attention, dot_product_attention
from prorank_jax.models.row_parts import rows_at_once

ROWS, WIDTH, PREFIX = 6, 130, 5  # wider than a causal block
SIZES = [(ROWS, WIDTH, 4, 8), *[(ROWS, PREFIX + WIDTH, 2, 8)] * 2]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=size), jnp.float32) for size in SIZES]


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def attention(kind: str):
    rng = np.random.default_rng(1)
    slots = jnp.asarray(rng.random((ROWS, PREFIX)) < 0.6)
    seen = rng.random((1 if kind == "one mask" else ROWS, WIDTH, PREFIX + WIDTH)) < 0.6
    seen[:, :, 0] = True
    if kind == "causal":
        return lambda arrays: causal_attention(*arrays, CausalBlocks(slots))
    return lambda arrays: dot_product_attention(*arrays, jnp.asarray(seen))


def values_and_gradients(attend, arrays, devices=1):
    def weighted(arrays):
        mixed = attend(arrays).astype(jnp.float32)
        return jnp.sin(mixed).sum(), mixed

    with jax.set_mesh(mesh_of(devices)):
        step = jax.jit(jax.grad(weighted, has_aux=True))
        loops = step.lower(arrays).as_text().count("stablehlo.while")
        return loops, jax.tree.leaves(step(arrays))


@pytest.mark.parametrize("kind", ["causal", "a mask for each row", "one mask"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_parts_give_the_values_and_gradients_of_all_rows(kind, dtype, tolerance, arrays, monkeypatch):
    arrays = [array.astype(dtype) for array in arrays]
    loops, at_once = values_and_gradients(attention(kind), arrays)
    assert loops == 0
    monkeypatch.setattr(row_parts, "rows_at_once", lambda rows, _: rows // 3)
    loops, in_parts = values_and_gradients(attention(kind), arrays)
    assert loops > 0
    for part, whole in zip(in_parts, at_once, strict=True):
        assert part.dtype == whole.dtype
        np.testing.assert_allclose(part, whole, rtol=tolerance, atol=tolerance)


@pytest.fixture
def attended(monkeypatch):
    """Rows and heads of the queries that are attended at once, as they come."""
    seen: set[tuple[int, int]] = set()
    in_row_parts = plain.in_row_parts

    def noting(of_rows, bytes_of_row, visible, query, *others):
        seen.add((query.shape[0], query.shape[2]))
        return in_row_parts(of_rows, bytes_of_row, visible, query, *others)

    monkeypatch.setattr(plain, "in_row_parts", noting)
    return seen


@pytest.mark.parametrize("kind", ["causal", "a mask for each row", "one mask"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_heads_apart_give_the_values_and_gradients_of_whole_rows(
    kind, dtype, tolerance, arrays, attended, monkeypatch
):
    arrays = [array.astype(dtype) for array in arrays]
    _, of_rows = values_and_gradients(attention(kind), arrays)
    assert attended == {(ROWS, 4)}
    attended.clear()
    monkeypatch.setattr(plain, "fits_caches", lambda _: False)
    _, by_head = values_and_gradients(attention(kind), arrays)
    assert attended == {(2 * ROWS, 2)}  # two KV heads, each with two heads of queries
    for part, whole in zip(by_head, of_rows, strict=True):
        assert part.dtype == whole.dtype
        np.testing.assert_allclose(part, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("missing_bytes", "wanted"), [(0, (ROWS, 4)), (1, (2 * ROWS, 2))])
def test_heads_are_apart_where_the_caches_cannot_hold_a_row(
    missing_bytes, wanted, arrays, attended, monkeypatch
):
    monkeypatch.setattr(row_parts.os, "cpu_count", lambda: 2)
    logits_of_row = 4 * WIDTH * (PREFIX + WIDTH)
    monkeypatch.setattr(row_parts, "CACHED_BYTES_OF_A_CORE", 4 * logits_of_row // 2 - missing_bytes)
    values_and_gradients(attention("one mask"), arrays)
    assert attended == {wanted}


def test_over_several_devices_rows_and_heads_stay_together(arrays, attended, monkeypatch):
    monkeypatch.setattr(row_parts, "rows_at_once", lambda *_: 1)
    monkeypatch.setattr(plain, "fits_caches", lambda _: False)
    assert values_and_gradients(attention("causal"), arrays, devices=2)[0] == 0
    assert attended == {(ROWS, 4)}
    step = jax.jit(attention("causal"))
    assert "stablehlo.while" not in step.lower(arrays).as_text()  # no mesh: for no device in particular


@pytest.mark.parametrize(
    ("rows", "caches_hold", "wanted"), [(12, 100, 12), (12, 5, 4), (7, 5, 1), (12, 0.5, 1), (1, 0.5, 1)]
)
def test_parts_are_the_largest_divisor_that_the_caches_hold(rows, caches_hold, wanted, monkeypatch):
    monkeypatch.setattr(row_parts.os, "cpu_count", lambda: 2)
    bytes_of_row = 2 * row_parts.CACHED_BYTES_OF_A_CORE / caches_hold
    assert rows_at_once(rows, int(bytes_of_row)) == wanted
