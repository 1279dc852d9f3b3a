"""A side that computes nothing: what it answers and how it fails is in its second argument, as JSON.

    python stand_in_side.py NAME '{"diary": FILE, "seconds": [...], "values": [...], "fault": NAME}'

Each request is noted in the diary. `seconds_of_batch` has the seconds for each `peer_batch` of work.json,
`fault_of_batch` the fault. Faults: `dies` (with `last_words`), `is killed`, `finds no room`, `hangs` and
`babbles` in its second round, `chatters` always. With `yardstick_fault` it finds no room for that.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "launch" / "peers"))

from side import read_settings, serve

NAME, SCRIPT = sys.argv[1], json.loads(sys.argv[2])
ROUNDS = itertools.count(1)


def note(what: str) -> None:
    """Writes what was asked."""
    with Path(SCRIPT["diary"]).open("a", encoding="utf-8") as diary:
        diary.write(f"{NAME} {what}\n")
    if SCRIPT.get("fault") == "chatters":
        print('{"values": [99.0]}', flush=True)
        os.system("echo from a child")


def load(work: Path) -> dict[str, Any]:
    """Tells its own process id."""
    note("load")
    if "seconds_of_batch" in SCRIPT:
        batch = str(read_settings(work)["peer_batch"])
        SCRIPT["seconds"] = [SCRIPT["seconds_of_batch"][batch]]
        SCRIPT["fault"] = SCRIPT.get("fault_of_batch", {}).get(batch)
    return {
        "facts": {
            "pid": os.getpid(),
            "work": str(work),
            "device": SCRIPT.get("device", "cpu"),
            "dtype": SCRIPT.get("dtype", "float32"),
            "precision": SCRIPT.get("precision", "highest"),
        }
    }


def prepare() -> dict[str, Any]:
    """A made-up fact and time."""
    note("prepare")
    return {"facts": {"tried": 3}, "compile_seconds": 2.5}


def check() -> dict[str, Any]:
    """The values of the script."""
    note("check")
    return {"values": SCRIPT.get("values", [1.0, -20.0]), **SCRIPT.get("own", {})}


def run_round() -> dict[str, Any]:
    """The next seconds of the script."""
    note("round")
    number = next(ROUNDS)
    fault = SCRIPT.get("fault") if number == 2 else None
    if fault == "dies":
        print(SCRIPT.get("last_words", "out of luck"), file=sys.stderr)
        os._exit(7)
    if fault == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "finds no room":
        raise RuntimeError("the training loop stopped") from MemoryError()
    if fault == "hangs":
        time.sleep(3600)
    if fault == "babbles":
        os.write(ANSWERS, b"not json\n")
    seconds = SCRIPT.get("seconds", [1.0])
    return {"seconds": seconds[(number - 1) % len(seconds)], "units": 4, "peak_bytes": 2**30}


def measure_yardstick() -> dict[str, Any]:
    """A made-up speed."""
    note("yardstick")
    if SCRIPT.get("yardstick_fault"):
        raise RuntimeError("no products") from MemoryError()
    return {"facts": {"peak_flops": 7.0}}


ANSWERS = os.dup(1)
serve(load, prepare, check, run_round, measure_yardstick)
