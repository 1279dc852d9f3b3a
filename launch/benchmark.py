"""Measures beside another library: `python launch/benchmark.py grpo [--peer NAME] [--output FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command


def main(arguments: list[str]) -> int:
    """Runs the benchmark; returns the exit code: 0 done, 2 bad input or a side failed, 130 interrupted."""

    def command() -> None:
        from prorank_jax.benchmarks.command import run_benchmark

        run_benchmark(arguments)

    return run_command(command, interrupted="nothing was kept")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
