"""A packed file says line by line what it says unpacked; one that is damaged is one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.jsonl import read_lines
from prorank_jax.teacher_scores import read_teacher_scores
from prorank_jax.trec import read_scores

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8)
LONG = "".join(f"q Q0 d{number} {number} {-number} t\n" for number in range(1, 30))
RUN = "q Q0 b 1 1.5 t\nq Q0 a 2 -2e-3 t\np Q0 a 1 0.25 t\n"


def _packed(file: Path, content: bytes) -> Path:
    file.write_bytes(gzip.compress(content, mtime=0))
    return file


@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n"]), parts=st.integers(1, 3))
def test_a_packed_file_has_the_lines_of_the_plain_one(
    lines: list[str], ending: str, parts: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where several packed files were joined, as `cat` does."""
    folder = tmp_path_factory.mktemp("lines")
    content = ending.join(lines).encode()
    (folder / "plain").write_bytes(content)
    cuts = [len(content) * part // parts for part in range(parts + 1)]
    pieces = [gzip.compress(content[cuts[part] : cuts[part + 1]]) for part in range(parts)]
    (folder / "packed.gz").write_bytes(b"".join(pieces))
    assert list(read_lines(folder / "packed.gz")) == list(read_lines(folder / "plain"))


@pytest.mark.parametrize("read", [read_scores, read_teacher_scores])
def test_runs_are_read_packed(read, tmp_path: Path) -> None:
    plain = tmp_path / "run.trec"
    plain.write_text(RUN)
    scores = read(_packed(tmp_path / "run.trec.gz", RUN.encode()))
    assert scores == read(plain)
    assert [list(documents) for documents in scores.values()] == [["b", "a"], ["a"]]


def test_flaws_inside_a_packed_file_have_their_line(tmp_path: Path) -> None:
    file = _packed(tmp_path / "run.gz", RUN.encode() + b"q Q0 \xff 3 0 t\n")
    with pytest.raises(ValueError, match=r"run\.gz, line 4: byte 6 is not UTF-8; save the file as UTF-8$"):
        read_scores(file)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_cannot_be_unpacked_is_named(kept: float, tmp_path: Path) -> None:
    """Plain text under a packed name, and an upload that broke off."""
    whole = gzip.compress(LONG.encode())
    file = tmp_path / "run.trec.gz"
    file.write_bytes(whole[: int(kept * len(whole))] or RUN.encode())
    with pytest.raises(ValueError, match=r"run\.trec\.gz: cannot be unpacked \(.*\); pack it again with"):
        read_scores(file)


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """What says only who packed the file and when, and the bits behind the last word, tell nothing."""
    file = tmp_path / "run.gz"
    whole = bytearray(gzip.compress(LONG.encode()))
    lines, refused = LONG.splitlines(), 0
    for place in range(len(whole)):
        whole[place] ^= 0x10
        file.write_bytes(whole)
        try:
            assert [line for _, line in read_lines(file)] == lines
        except ValueError as error:
            assert str(error).startswith(str(file))  # noqa: PT017 - most flips are refused, some may be read
            refused += 1
        whole[place] ^= 0x10
    assert refused > len(whole) - 12
