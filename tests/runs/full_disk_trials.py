"""Trials on a small disk: `python -m tests.runs.full_disk_trials train|export|read_only FOLDER KIB ...`.

Each prints one JSON object as its last line; a failed assertion ends it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prorank_jax.checkpoint
import prorank_jax.run_report
from prorank_jax.metrics_log import METRICS_FILE
from prorank_jax.model_urls import FETCHED
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from tests.cpu.shared_programs import sharing_programs
from tests.cpu.tiny_run import (
    STEPS,
    command_line,
    load_launcher,
    tiny_fields,
    write_collection,
    write_model_folder,
)
from tests.garbage import collect_seldom
from tests.runs.killed_runs import contents
from tests.runs.small_disk import Disk

CHECKPOINT_EVERY = 4
ONE_LINE = r"error: (?P<place>/\S+|output_dir='\S+): (?P<fault>[^;]+); (?P<remedy>[^\n]+)\n"


def run(main: Callable[[list[str]], int], arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    return code, said.getvalue()


def check_refusal(said: str, folder: Path, fault: str) -> str:
    """Asserts that the last line names a place below the folder, the fault and a remedy."""
    line = re.search(rf"(?:^|\n){ONE_LINE}$", said)
    assert line, said
    assert str(folder) in line["place"], said
    assert fault in line["fault"], said
    return Path(line["place"]).name


def steps_on(folder: Path) -> list[int]:
    steps = folder / CHECKPOINTS_FOLDER
    return sorted(int(path.name) for path in steps.glob("*") if path.name.isdigit()) if steps.is_dir() else []


def lines_of(folder: Path) -> int:
    file = folder / METRICS_FILE
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def train_trials(place: Path, disk: Disk, kibs: list[int]) -> dict[str, Any]:
    """Runs that meet a full disk; with room they must go on to the bits of a run that met none."""
    prorank_jax.run_report.measured_matmul_flops = lambda _: 1e12  # type: ignore[assignment]
    model, collection = write_model_folder(place / "model"), write_collection(place / "collection")
    main = load_launcher().main
    looked = prorank_jax.checkpoint.check_room

    def arguments(folder: Path) -> list[str]:
        return command_line(tiny_fields(model, collection, folder))

    whole = place / "whole"
    assert run(main, arguments(whole))[0] == 0
    expected, full_at, lost = contents(whole, STEPS), Counter[str](), []
    for number, kib in enumerate(kibs):
        # Every other trial lets a checkpoint begin without a look, so that it is Orbax whose writes fail.
        blind = number % 2 == 1
        prorank_jax.checkpoint.check_room = (lambda *_: None) if blind else looked
        folder = disk.folder / f"run{number}"
        with disk.with_free(kib):
            code, said = run(main, arguments(folder))
        if code == 0:
            full_at["nowhere"] += 1
        else:
            assert code == 2, said
            named = check_refusal(said, folder, "No space left on device")
            full_at["a checkpoint" if named.isdigit() else named] += 1
            assert blind or "Traceback" not in said, said
            # At most the steps since the last checkpoint fell due are lost.
            newest = max(steps_on(folder), default=0)
            lost.append(lines_of(folder) - newest)
            assert lost[-1] <= CHECKPOINT_EVERY, (lost, said)
        code, said = run(main, arguments(folder))
        assert code == 0, f"after {kib} KiB: {said}"
        found = contents(folder, STEPS)
        for name, value in expected.items():
            assert found[name] == value, f"{name} differs after {kib} KiB"
        assert not list(folder.rglob("*.tmp")), "leftovers"
        shutil.rmtree(folder)
    return {"full at": full_at, "steps lost": sum(lost), "most lost": max(lost, default=0)}


def export_trials(place: Path, disk: Disk, kibs: list[int]) -> dict[str, Any]:
    """Exports that meet a full disk leave nothing; with room they give the same files."""
    model = write_model_folder(place / "model")
    main = load_launcher("export_hf").main

    def files(folder: Path) -> dict[str, bytes]:
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

    def arguments(folder: Path) -> list[str]:
        return ["--model", str(model), "--output_dir", str(folder), "--name", "m"]

    assert run(main, arguments(place / "whole"))[0] == 0
    outcomes = Counter[str]()
    for kib in kibs:
        folder = disk.folder / "export"
        with disk.with_free(kib):
            code, said = run(main, arguments(folder))
            outcomes["full" if code else "fitted"] += 1
            if code:
                check_refusal(said, disk.folder, "No space left on device")
                assert [path.name for path in disk.folder.iterdir()] == ["filler"]
        if code:
            assert run(main, arguments(folder))[0] == 0
        assert files(folder) == files(place / "whole")
        shutil.rmtree(folder)
    return dict(outcomes)


def read_only_trials(place: Path, disk: Disk, _: list[int]) -> dict[str, Any]:
    """Nothing can be written to a read-only disk, in one sentence; a model on it can be used."""
    from prorank_jax.reranker import Reranker

    prorank_jax.run_report.measured_matmul_flops = lambda _: 1e12  # type: ignore[assignment]
    model, collection = write_model_folder(disk.folder / "model"), write_collection(place / "collection")
    train, export = load_launcher().main, load_launcher("export_hf").main
    finished = disk.folder / "finished"
    quick = tiny_fields(model, collection, finished) | {"train.steps": 4}
    code, said = run(train, command_line(quick))
    assert code == 0, said
    pairs = [("what is apple0", "apple0 text"), ("what is river0", "")]
    scores = {source: Reranker.from_pretrained(str(source)).predict(pairs) for source in (model, finished)}
    with disk.read_only():
        for source, expected in scores.items():
            assert (Reranker.from_pretrained(str(source)).predict(pairs) == expected).all()
        new = disk.folder / "new"
        refusals = [
            run(train, command_line(tiny_fields(model, collection, new))),
            run(train, command_line(quick | {"checkpoint.keep": 3})),  # goes on in a folder that is there
            run(export, ["--model", str(model), "--output_dir", str(new)]),
        ]
        os.environ["PRORANK_CACHE"] = str(disk.folder / "cache")
        url = {"model.source": f"file://{model}", "output_dir": str(place / "from_url")}
        refusals.append(run(train, command_line(quick | url)))
        for code, said in refusals:
            assert code == 2, said
            assert re.fullmatch(
                r"(?:(?!Traceback).)*error: [^\n]*Read-only file system[^\n]*\n", said, re.S
            ), said
            assert str(disk.folder) in said, said
        assert not new.exists()
    assert not (disk.folder / "cache" / FETCHED).exists()
    return {"refused": len(refusals)}


def main() -> None:
    trials = {"train": train_trials, "export": export_trials, "read_only": read_only_trials}[sys.argv[1]]
    place = Path(sys.argv[2])
    collect_seldom()
    with sharing_programs():
        found = trials(place, Disk(place / "disk"), [int(kib) for kib in sys.argv[3:]])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
