"""The warm-up meets every batch size, and with `all` every width that prompts are padded to."""

from __future__ import annotations

import pytest

from prorank_jax.scorer import make_batch_shapes
from prorank_jax.serving.warmup import warmup_batches


def shapes_met(kind: str, batch: int, max_length: int, template: int) -> set[tuple[int, int]]:
    shapes = make_batch_shapes(max_length, batch, 1)
    met = set()
    for pairs in warmup_batches(kind, batch, max_length):
        assert len(set(pairs)) == len(pairs)
        length = min(max_length, template + len(pairs[0][1].split()))
        met.add((min(shapes.rows_for(len(pairs)), shapes.most_rows(length)), shapes.width_for(length)))
    return met


@pytest.mark.parametrize("batch", [1, 6, 32])
@pytest.mark.parametrize(("max_length", "template"), [(224, 110), (1024, 100), (8192, 120)])
def test_all_shapes_of_prompts_are_met(batch, max_length, template):
    shapes = make_batch_shapes(max_length, batch, 1)
    widths = [width for width in shapes.widths if width > template]
    expected = {(min(rows, shapes.most_rows(width)), width) for rows in shapes.rows for width in widths}
    assert expected <= shapes_met("all", batch, max_length, template)


def test_short_documents_of_every_batch_size_are_met():
    assert {rows for rows, _ in shapes_met("short", 6, 224, 110)} == {1, 2, 4, 6}
