"""One side of a benchmark: a program that prepares once and then runs a round whenever it is asked.

Standard library only, so that each side's own interpreter can import it. The harness starts a side with
`python SCRIPT.py`, writes one JSON object a line to its stdin, and reads one JSON line for each from its
stdout:

    {"do": "load", "work": FOLDER} → {"facts": {"device": NAME, "dtype": NAME, ...}}
    {"do": "prepare"} → {"facts": {...}, "compile_seconds": s}
    {"do": "check"} → {"values": [...]}, and perhaps {"timed": [...], "plain": [...]}
    {"do": "round"} → {"seconds": s, "units": n, "peak_bytes": n}
    {"do": "yardstick"} → {"facts": {...}}, or {}
    {"do": "end"} → nothing; the program ends, as it does when its stdin ends

A work folder holds `work.json`, all settings and texts, and `model/`, a Hugging Face folder.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS_FILE, MODEL_FOLDER = "work.json", "model"

Answer = dict[str, Any]


def read_settings(work: Path) -> dict[str, Any]:
    """The content of `work.json`."""
    settings: dict[str, Any] = json.loads((work / SETTINGS_FILE).read_text(encoding="utf-8"))
    return settings


def peak_bytes() -> int:
    """The most host memory this process has held so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def serve(
    load: Callable[[Path], Answer],
    prepare: Callable[[], Answer],
    check: Callable[[], Answer],
    run_round: Callable[[], Answer],
    measure_yardstick: Callable[[], Answer] = dict,
) -> None:
    """Answers the harness until it says `end` or goes away.

    Whatever libraries print to stdout goes to stderr: only answers reach the harness.

    Args:
        load: takes a work folder; returns `facts`: versions, the device and the dtype in which it will
            compute, which the harness compares before anything takes long.
        prepare: compiles, and chooses what is fastest; returns `facts` (settings) and `compile_seconds`.
        check: returns `values`, floats that both sides compute from the same input; and perhaps `timed`, what
            the timed program itself gave, and `plain`, the same values by a plain computation.
        run_round: returns `seconds` and `units` of one measured round, and `peak_bytes` if it is known.
        measure_yardstick: after the last round, whose peak it would raise; returns `facts` of the machine.

    Raises:
        ValueError: a request of another kind.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        wanted = request["do"]
        if wanted == "end":
            return
        if wanted == "load":
            answer = load(Path(request["work"]))
        elif wanted == "prepare":
            answer = prepare()
        elif wanted == "check":
            answer = check()
        elif wanted == "round":
            answer = run_round()
        elif wanted == "yardstick":
            answer = measure_yardstick()
        else:
            raise ValueError(f"do={wanted!r}: load, prepare, check, round, yardstick or end")
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
