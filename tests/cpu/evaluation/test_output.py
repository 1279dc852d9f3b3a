"""Whose folder an evaluation writes to."""

from __future__ import annotations

import pytest

from prorank_jax.evaluation.output import claim_folder


def test_a_damaged_folder_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation\.json: cannot be read"):
        claim_folder(tmp_path / "out", {})
