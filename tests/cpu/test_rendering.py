"""Prompts are the same to the token whoever renders them, and processes that render leave nothing behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompts import make_renderer
from prorank_jax.rendering import PIECE, in_processes, in_this_process, useful_processes
from prorank_jax.storage_faults import OutOfReachError

TOKENIZER = load_tokenizer(str(Path(__file__).parent / "goldens" / "tiny_qwen"))
LONG_QUERY = "how do plants store water " * 20
SENTENCES = ["Cacti swell. ", "Roots drink at night. ", "A stem is green. ", "Rain is rare there. "]
PAIRS = [
    (
        LONG_QUERY if number % PIECE == 0 else f"what do roots {number} do",
        f"Plant {number}. " + "".join(SENTENCES[(number + n) % 4] for n in range(number % 50)),
    )
    for number in range(3 * PIECE + 5)
]
PARENT = """
import sys, time
from pathlib import Path
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompts import make_renderer
from prorank_jax.rendering import in_processes

if __name__ == "__main__":
    renderer = make_renderer(load_tokenizer(sys.argv[1]), max_length=200)
    with in_processes(renderer, 2) as render:
        render([("a query", "a document")] * 200)
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(60)
"""


KILLED = """
import multiprocessing, os, signal, sys, threading
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.prompts import make_renderer
from prorank_jax.rendering import in_processes
from prorank_jax.storage_faults import OutOfReachError

def kill():
    for child in multiprocessing.active_children():
        child.kill()

if __name__ == "__main__":
    renderer = make_renderer(load_tokenizer(sys.argv[1]), max_length=200)
    with in_processes(renderer, 2) as render:
        render([("a query", "a document")] * 200)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGSTOP)  # they read no more: the pipe fills up
        threading.Timer(2, kill).start()
        try:
            render([("a query", f"{n} " * 3000) for n in range(500)])
        except OutOfReachError as error:
            print(error, flush=True)
"""


def renderer():
    return make_renderer(TOKENIZER, max_length=200, instruction="be brief", excerpts="key_sentences")


def test_processes_render_what_this_one_does(caplog):
    here, spread = renderer(), renderer()
    expected = [here.render(*pair) for pair in PAIRS]
    assert 190 < max(map(len, expected)) <= 200  # the longest documents are cut to key sentences
    assert [ids.tolist() for ids in in_this_process(renderer())(PAIRS)] == expected
    caplog.clear()
    with caplog.at_level(logging.WARNING), in_processes(spread, 2) as render:
        for count in (len(PAIRS), 1, 0, PIECE):
            prompts = render(PAIRS[:count])
            assert [ids.tolist() for ids in prompts] == expected[:count]
            assert all(ids.dtype == np.int32 for ids in prompts)
    cut = sum(query == LONG_QUERY for query, _ in PAIRS)
    assert here.truncated_queries == cut == 4
    assert spread.truncated_queries == cut + 1 + 1  # each call cuts it anew
    assert sum("is cut to" in record.message for record in caplog.records) == 1


def test_no_process_is_started_where_none_is_asked_for(monkeypatch):
    monkeypatch.setattr("prorank_jax.rendering.ProcessPoolExecutor", None)
    with in_processes(renderer(), 0) as render:
        assert [ids.tolist() for ids in render(PAIRS[:3])] == [renderer().render(*p) for p in PAIRS[:3]]


@pytest.mark.parametrize(
    ("cores", "accelerated", "processes"),
    [(1, True, 0), (2, True, 0), (4, True, 2), (15, True, 7), (240, True, 8), (240, False, 0)],
)
def test_an_accelerator_is_fed_by_half_of_the_cores(monkeypatch, cores, accelerated, processes):
    monkeypatch.setattr("prorank_jax.rendering.usable_cores", lambda: cores)
    assert useful_processes(is_accelerated=accelerated) == processes


def _is_there(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes under /proc")
def test_the_processes_end_with_the_one_they_render_for(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    tokenizer = Path(__file__).parent / "goldens" / "tiny_qwen"
    parent = subprocess.Popen(
        [sys.executable, program, tokenizer],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    patience = threading.Timer(200, parent.kill)
    patience.start()
    try:
        assert parent.stdout is not None
        children = [int(child) for child in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(_is_there, children))
    finally:
        patience.cancel()
        parent.kill()  # SIGKILL, which leaves it no time to say good-bye
        parent.wait()
    deadline = time.monotonic() + 60
    while any(map(_is_there, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_there, children))


def test_a_killed_process_is_told_in_a_sentence():
    with in_processes(renderer(), 2) as render:
        assert len(render(PAIRS[:4])) == 4
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(OutOfReachError, match=r"one of 2 processes .* was killed.*--render_processes"):
            render(PAIRS)


def test_a_pool_that_dies_while_texts_are_on_their_way_to_it_ends(tmp_path):
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    tokenizer = Path(__file__).parent / "goldens" / "tiny_qwen"
    ended = subprocess.run(
        [sys.executable, program, tokenizer],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
        timeout=60,
        check=True,
    )
    assert "one of 2 processes that render prompts was killed" in ended.stdout


def test_an_error_in_a_process_is_the_error_here():
    broken = renderer()
    with in_processes(broken, 2) as render, pytest.raises(TypeError):
        render([("a query", "a document"), ("a query", 3)])
