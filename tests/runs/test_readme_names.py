"""README.md and docs/ name only files, sections and options that there are."""

from __future__ import annotations

import posixpath
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from prorank_jax.config_files import field_paths
from tests.cpu.tiny_run import REPOSITORY
from tests.runs.readme.markdown import anchors, blocks, link_targets, spans
from tests.runs.readme.pages import FIRST_PAGE, read_pages
from tests.runs.readme.programs import WORK, help_of

PAGES = read_pages()
FOLDERS = ("configs/", "launch/", "prorank_jax/", "tests/", ".ci/")
_PLACEHOLDER = re.compile(r"[A-Z]{3,}(_[A-Z]+)*")
_OPTION = re.compile(r"(?<!\S)--(\w[\w.-]*)")


def named_files(text: str) -> set[str]:
    """Words of code that begin with a folder of the repository, as patterns: `MODEL` may be anything."""
    code = " ".join(piece.text for piece in (*spans(text), *blocks(text)))
    words = re.split(r"[\s'\"=,;:()]+", code)
    return {_PLACEHOLDER.sub("*", word) for word in words if word.startswith(FOLDERS)}


def is_there(name: str) -> bool:
    """Whether a file matches; one that users make has an example beside it."""
    return any(list(REPOSITORY.glob(pattern)) for pattern in (name, f"{name}.example"))


def test_files_that_are_named_are_there():
    names = {name for text in PAGES.values() for name in named_files(text)}
    assert len(names) > 20
    assert {name for name in names if not is_there(name)} == set()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("configs/stage1.yaml", True),
        ("configs/stage9.yaml", False),
        ("configs/tpu/MODEL_SLICE.yaml", True),
        ("configs/ipu/MODEL_SLICE.yaml", False),
        ("launch/tpu_pod.env", True),
        ("tests/", True),
    ],
)
def test_absent_files_are_noticed(name, found):
    (pattern,) = named_files(f"see `{name}` there")
    assert is_there(pattern) is found


def broken_links(pages: Mapping[str, str]) -> list[str]:
    """Links to no heading of a page, or to no file of the repository."""
    links = [(page, target.text) for page, text in pages.items() for target in link_targets(text)]
    return [
        target for page, target in links if "://" not in target and not _leads_somewhere(page, target, pages)
    ]


def _leads_somewhere(page: str, target: str, pages: Mapping[str, str]) -> bool:
    path, _, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if anchor:
        return anchor in anchors(pages.get(there, ""))
    return (REPOSITORY / there).exists()


def test_links_lead_somewhere():
    assert broken_links(PAGES) == []
    text = "# One, two\n## `three`: four's\n## One two\n[a](#one-two)[b](#three-fours)[c](#one-two-1)`[d](e)`"
    assert broken_links({FIRST_PAGE: text}) == []
    more = "[e](#one) [f](LICENSES) [`g`](#two) [h](docs/x.md#here) [i](docs/x.md#there)"
    other = "# Here\n[a](#here)[b](../README.md#one-two)[c](../LICENSE) [d](../README.md#one) [e](LICENSE)"
    assert broken_links({FIRST_PAGE: f"{text} {more}", "docs/x.md": other}) == [
        *("#one", "LICENSES", "#two", "docs/x.md#there"),
        *("../README.md#one", "LICENSE"),
    ]


@pytest.fixture
def known_options(capsys) -> dict[str, set[str]]:
    """The options of each program, from its own help."""
    helps = {name: help_of(name, capsys) for name in WORK}
    pods = [Path("launch") / "tpu_pod.sh", "--help"]
    helps["tpu_pod"] = subprocess.run(pods, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    options = {name: set(_OPTION.findall(said.replace("[", " "))) for name, said in helps.items()}
    fields = set(field_paths())
    options["reproduce"] |= fields | {f"stage{stage}.{field}" for stage in (1, 2) for field in fields}
    return {name: known | {"help"} for name, known in options.items()}


def unknown_options(text: str, known_options: dict[str, set[str]]) -> list[str]:
    """Code spans of options alone that no single program has."""
    fragments = [span.text for span in spans(text) if _OPTION.match(span.text)]
    return [
        fragment
        for fragment in fragments
        if not any(set(_OPTION.findall(fragment)) <= known for known in known_options.values())
    ]


def test_options_that_are_named_exist(known_options):
    assert [option for text in PAGES.values() for option in unknown_options(text, known_options)] == []
    text = (
        "`--top_k 3 --queries 4` `--topk 3` `--top_k 3 --port 1` `--stage2.train.steps 3` `--train.stepz 3`"
    )
    assert unknown_options(text, known_options) == ["--topk 3", "--top_k 3 --port 1", "--train.stepz 3"]
