"""Text is printed as it is, whatever a user called a file."""

from __future__ import annotations

import io

from rich.console import Console

from prorank_jax.messages import say


def test_brackets_and_long_paths_stay_as_they_are():
    said = io.StringIO()
    path = f"data [1]/[red]corpus[/red]/{'long/' * 40}corpus.jsonl"
    say(Console(file=said, width=80, force_terminal=True), f"data: {path} 3 1.5 'text'")
    assert said.getvalue() == f"data: {path} 3 1.5 'text'\n"


def test_a_split_is_no_picture():
    said = io.StringIO()
    say(Console(file=said), "warning: scifact:train: the model was trained on this split")
    assert said.getvalue() == "warning: scifact:train: the model was trained on this split\n"
