"""Of unfinished folders only those go whose maker is certainly no more, or that nobody writes for so long."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prorank_jax import abandoned
from prorank_jax.abandoned import is_abandoned, remove_abandoned, sign
from prorank_jax.living import this_process
from tests.cpu.test_living import DEAD, needs_linux

DEAD_HERE = {"pid": DEAD}
ELSEWHERE = {"pid": DEAD, "host": "elsewhere"}


def sign_as(folder: Path, maker: dict) -> None:
    sign(folder)
    (folder / abandoned._MAKER_FILE).write_text(json.dumps(this_process() | maker))


def unfinished(place: Path, maker: dict | None, name: str = ".unfinished-x", old: bool = False) -> Path:
    """As somebody left it: `maker` in the place of this process; None: nobody signed it."""
    folder = place / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    if maker is not None:
        sign_as(folder, maker)
    if old:
        os.utime(folder, (1, 1))
    return folder


@needs_linux
@pytest.mark.parametrize(
    ("maker", "old", "expected"),
    [
        (DEAD_HERE, False, True),
        ({}, False, False),
        ({}, True, False),
        (ELSEWHERE, False, False),
        (ELSEWHERE, True, True),
        (None, False, False),
        (None, True, False),
    ],
    ids=[
        "killed",
        "alive",
        "alive for long",
        "elsewhere",
        "elsewhere, long ago",
        "unsigned",
        "unsigned, long ago",
    ],
)
def test_whose_maker_is_no_more_is_abandoned(maker, old, expected, tmp_path):
    folder = unfinished(tmp_path, maker, old=old)
    assert is_abandoned(folder) == expected
    remove_abandoned(tmp_path)
    assert folder.exists() != expected


@needs_linux
def test_other_names_links_and_what_lies_deeper_are_left_alone(tmp_path):
    kept = [
        unfinished(tmp_path, DEAD_HERE, name) for name in ("model", "unfinished-x", "deeper/.unfinished-x")
    ]
    (tmp_path / ".unfinished-link").symlink_to(tmp_path / "model")
    (tmp_path / ".unfinished-file").write_text("precious")
    remove_abandoned(tmp_path)
    assert all(folder.is_dir() for folder in kept)
    assert {path.name for path in tmp_path.glob(".*")} == {".unfinished-link", ".unfinished-file"}


@pytest.mark.parametrize("signature", ["", "{", "[]", '{"pid": 1}'])
def test_a_torn_signature_is_judged_by_its_age(signature, tmp_path):
    folder = unfinished(tmp_path, {})
    (folder / abandoned._MAKER_FILE).write_text(signature)
    assert not is_abandoned(folder)
    os.utime(folder, (1, 1))
    assert is_abandoned(folder)
