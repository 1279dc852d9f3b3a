"""The real launcher in a process of its own, which also writes down the examples that it feeds.

Run as a script: `observed_run.py RECORD_FILE LAUNCHER_ARGUMENT... [--then LAUNCHER_ARGUMENT...]...`. Each
command begins where the one before ended, and the process exits with the last one's code.

`OBSERVED_RUN_ORDER` in the environment has the devices in another order than jax's, as JSON: on a slice of
TPUs they follow the links, and those of a process need not stand together.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

THEN, ENDED = "--then", "the command ended with"
ORDER = "OBSERVED_RUN_ORDER"
HEARTBEAT_SECONDS = 15  # a test that kills a process need not wait for a minute


def main(record_file: str, arguments: list[str]) -> int:
    """Launches with `put_batch` watched; one line a batch."""
    from prorank_jax import machine
    from tests.cpu.tiny_run import load_launcher
    from tests.garbage import collect_seldom

    collect_seldom()
    machine.HEARTBEAT_SECONDS = HEARTBEAT_SECONDS
    launcher = load_launcher()
    launcher.join_peers, join = (lambda: False), launcher.join_peers
    has_peers = join()
    launcher.join_peers = lambda: has_peers

    import jax

    from prorank_jax import run_report, setup, training_loop

    put_batch = training_loop.put_batch

    def watched(batch: Any, mesh: Any) -> Any:
        with Path(record_file).open("a") as file:
            file.write(json.dumps(batch.examples.tolist()) + "\n")
        return put_batch(batch, mesh)

    training_loop.put_batch = watched
    if order := os.environ.get(ORDER):
        plain = setup.make_mesh
        setup.make_mesh = lambda options: plain(options, [jax.devices()[i] for i in json.loads(order)])
    run_report.measured_matmul_flops = lambda _: 1e12
    code = 0
    for command in commands(arguments):
        code = launcher.main(command)
        print(f"{ENDED} {code}", flush=True)
    return code


def commands(arguments: list[str]) -> list[list[str]]:
    """What stands between `THEN`s."""
    places = [-1, *(place for place, argument in enumerate(arguments) if argument == THEN), len(arguments)]
    return [arguments[before + 1 : after] for before, after in itertools.pairwise(places)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
