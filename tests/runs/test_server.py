"""The server as a process with a real model, and its command line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prorank_jax.calibration import Calibration, save_calibration
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.reranker import Reranker
from prorank_jax.server import load_model, main, parse_arguments
from prorank_jax.serving.load import LoadOptions, run_load
from prorank_jax.serving.process import bind
from tests.cpu.tiny_run import REPOSITORY, write_model_folder

ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prorank_jax.server", "--port", "0", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=REPOSITORY, env=ENVIRONMENT)


def line_with(start_of_line: str, stream: IO[str]) -> str:
    """The next line that starts so; fails if the stream ends before."""
    return next(line for line in stream if line.startswith(start_of_line))


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process that is ready, and its address."""
    process = start(*arguments)
    try:
        assert process.stdout is not None
        ready = line_with("serving ", process.stdout)
        match = re.fullmatch(r"serving \S+ on (http://127\.0\.0\.1:\d+)\n", ready)
        assert match, ready
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


def post(address: str, request: object) -> tuple[int, object]:
    headers = {"Content-Type": "application/json"}
    try:
        with urlopen(
            Request(f"{address}/rerank", json.dumps(request).encode(), headers), timeout=60
        ) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_server_scores_as_the_reranker_does_and_ends_well_under_load(model, tmp_path):
    documents = ["a river", "the mountain school of music", "", "virus"]
    reranker = Reranker.from_pretrained(str(model))
    pairs = [("music", text) for text in documents]
    save_calibration(tmp_path / "calibration.json", Calibration(0.5, -1.0))
    calibrated = ("--calibration", str(tmp_path / "calibration.json"))
    with serving("--model", str(model), "--max_batch_pairs", "4", *calibrated) as (process, address):
        for instruction in (None, "find schools"):
            request = {"query": "music", "texts": documents, "raw_scores": True, "instruction": instruction}
            status, results = post(address, request)
            assert status == 200
            scores = {result["index"]: result["score"] for result in results}
            expected = reranker.predict(pairs, instruction=instruction)
            np.testing.assert_allclose([scores[index] for index in range(4)], expected, atol=1e-5)

        _, results = post(address, {"query": "music", "texts": documents})
        shown = [result["score"] for result in sorted(results, key=lambda result: result["index"])]
        reranker.calibration = Calibration(0.5, -1.0)
        np.testing.assert_allclose(shown, reranker.predict(pairs, calibrated=True), rtol=0, atol=1e-5)

        status, answer = post(address, {"query": "q", "texts": ["d"], "instruction": "word " * 4000})
        assert status == 422
        assert answer["error"]["field"] == "instruction"

        under_load = LoadOptions(url=address, clients=8, requests=2000, words=3, timeout_s=60)
        with ThreadPoolExecutor(1) as load:
            answered = threading.Semaphore(0)
            running = load.submit(run_load, under_load, answered.release)
            for _ in range(40):
                assert answered.acquire(timeout=60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            report = running.result()
        assert report["right"] >= 40
        # Those that were accepted are answered; the others could not connect any more.
        assert set(report["statuses"]) <= {"0", "200", "503"}
        assert report["wrong"] == 0
        assert all(re.search(r"refused|closed|reset|Broken pipe", problem) for problem in report["problems"])


SENTENCES = (
    "A river ran by the old bridge for a long time. Glass and coal came to the market in winter. "
    "The school taught music to all. The treaty was made on an island."
)


def test_the_options_of_a_reranker_reach_it(model):
    pairs = [("music", SENTENCES), ("treaty", SENTENCES)]
    options = ["--model", str(model), "--excerpts", "key_sentences", "--max_length", "200"]
    score = load_model(parse_arguments(options))

    def expected(excerpts: str) -> np.ndarray:
        return Reranker.from_pretrained(str(model), max_length=200, excerpts=excerpts).predict(pairs)

    np.testing.assert_array_equal(score(pairs, None), expected("key_sentences"))
    assert (score(pairs, None) != expected("head")).all()


@pytest.mark.parametrize("excerpts", ["head", "key_sentences"])
def test_scoring_leaves_no_copy_in_a_text(model, excerpts):
    """A tokenizer keeps the UTF-8 of any text that is handed to it; `--max_held_bytes` counts none."""
    text = SENTENCES + "\u00e9" * 1000 + excerpts
    before = sys.getsizeof(text)
    load_model(parse_arguments(["--model", str(model), "--excerpts", excerpts]))([("music", text)], None)
    assert sys.getsizeof(text) == before


def test_a_client_hears_of_scores_that_are_no_numbers_by_the_name_it_knows(tmp_path):
    """One token's embedding is damaged, so that warming up notices nothing."""
    write_model_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    (name,) = [name for name in weights if "embed" in name]
    rare = load_tokenizer(str(tmp_path)).encode("\u00e9")[0]
    weights[name][rare] = np.nan
    save_file(weights, file)
    options = ["--model", str(tmp_path), "--served_model_name", "served"]
    score = load_model(parse_arguments(options))
    with pytest.raises(ValueError, match=r"model\.source='served': the score of pair 1 is nan"):
        score([("q", "river"), ("q", "\u00e9")], None)


def test_a_server_that_still_loads_ends_at_once(model):
    process = start("--model", str(model))
    try:
        assert process.stdout is not None
        line_with("loading ", process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def refusal(arguments: list[str], capsys) -> str:
    """What the server says when it refuses; it must be one line."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    return said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        (["--model"], "--model: expected one argument"),
        (["--model", "m", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--model", "m", "--port", "many"], "--port: invalid int value: 'many'"),
        (["--model", "m", "--port", "70000"], "port=70000"),
        (["--model", "m", "--batch_wait_ms", "nan"], "batch_wait_ms=nan"),
        (["--model", "m", "--max_queue_pairs", "10"], "max_queue_pairs=10.*max_documents=1000"),
        (["--model", "m", "--excerpts", "tail"], "excerpts='tail'"),
        (
            ["--model", "m", "--port", "0", "--calibration", "absent.json"],
            "calibration='absent.json'.*No such file",
        ),
        (["--model", "m", "--host", "no.such.host.invalid"], "host='no.such.host.invalid'"),
        (["--model", "m", "--host", "203.0.113.1"], "host='203.0.113.1'.*cannot listen"),
        (["--model", "nowhere/to/be/found", "--port", "0"], "no such folder"),
    ],
)
def test_bad_command_lines_are_one_line(arguments, message, capsys):
    assert re.search(message, refusal(arguments, capsys))


def test_a_port_that_is_taken_is_named(capsys):
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = refusal(["--model", "m", "--port", str(port)], capsys)
    assert f"port={port}: cannot listen there (Address already in use" in said


def test_without_the_extra_the_command_to_install_it_is_named(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name)
    )
    assert "uvicorn is not installed; run pip install -e '.[serve]' in the checkout" in refusal(
        ["--model", "m"], capsys
    )


def test_optional_fields_are_left_to_the_model():
    options = parse_arguments(["--model", "m"])
    assert (options.max_length, options.instruction, options.system) == (None, None, None)
    options = parse_arguments(["--model", "m", "--max_length", "64", "--instruction", "i"])
    assert (options.max_length, options.instruction) == (64, "i")


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "--max_queue_pairs" in said
    assert "(default: 127.0.0.1)" in said
