"""Records are written where they belong, and nothing is left elsewhere."""

from __future__ import annotations

import tempfile

import numpy as np

from prorank_jax.records import Example, RecordReader, ensure_records


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    example = Example("q", "d", np.arange(5, dtype=np.int32), label=1, grade=2)
    folder = ensure_records(tmp_path / "cache", {"name": "one"}, lambda: [example])
    assert RecordReader(folder)[0].tokens.tolist() == [0, 1, 2, 3, 4]
    assert list(temporary.iterdir()) == []
