"""What an ablation refuses before it works: a folder of another one, and runs that could not be trained."""

from __future__ import annotations

import json

import pytest

from prorank_jax.reproduce import place
from tests.cpu.reproduce.stand_in_launchers import work

pytest.importorskip("ranx")


def test_a_folder_made_before_fields_of_the_data_came_goes_on_with_their_defaults(tmp_path):
    out = tmp_path / "out"
    work(out, "--seeds", "0", "--only", "base")
    settings = json.loads((out / place.SETTINGS_FILE).read_text())
    later = [f"probe: data.{name}" for name in ("max_queries", "negatives_run", "negatives_from")]
    (out / place.SETTINGS_FILE).write_text(json.dumps({n: v for n, v in settings.items() if n not in later}))
    with pytest.raises(ValueError, match=r"\(probe: data\.max_queries is 0 there, 3 here\)"):
        work(out, "--seeds", "0", "--only", "base", "--data.max_queries", "3")
    assert work(out, "--seeds", "0", "--only", "base")[0].ran == []
    assert json.loads((out / place.SETTINGS_FILE).read_text()) == settings
