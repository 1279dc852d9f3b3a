"""Long loops tell how far they are, on a terminal and in a log; short ones say nothing."""

from __future__ import annotations

import pytest

from prorank_jax import long_work
from prorank_jax.long_work import SECONDS_BETWEEN_LINES, tracked


def test_a_log_gets_a_line_each_half_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(long_work.time, "monotonic", lambda: clock[0])
    seen = []
    for item in tracked("abcdefgh", "mining", 8):
        seen.append(item)
        clock[0] += SECONDS_BETWEEN_LINES / 2
    assert "".join(seen) == "abcdefgh"
    assert capsys.readouterr().err.splitlines() == [
        "mining: 2/8, 1.5 min left",
        "mining: 4/8, 1.0 min left",
        "mining: 6/8, 0.5 min left",
    ]


@pytest.mark.parametrize("items", [[], [1, 2, 3]])
def test_short_work_says_nothing(items, capsys):
    assert list(tracked(iter(items), "mining", len(items))) == items
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = []

    def track(items, title, console, **options):
        shown.append((title, options, console.stderr))
        return items

    monkeypatch.setattr(long_work.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(long_work, "track", track)
    assert list(tracked([4, 5], "mining", 2)) == [4, 5]
    assert shown == [("mining", {"total": 2, "transient": True}, True)]
