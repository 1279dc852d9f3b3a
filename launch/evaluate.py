"""Evaluates a model: `python launch/evaluate.py --model X --dataset beir/scifact/test|FOLDER:split|demo`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command


def main(arguments: list[str]) -> int:
    """Runs the evaluation; returns the exit code: 0 done, 2 bad input, 130 interrupted."""

    def command() -> None:
        from prorank_jax.evaluation.options import parse_options

        options = parse_options(arguments)
        from prorank_jax.evaluate import evaluate  # takes seconds to import

        evaluate(options)

    return run_command(command, interrupted="the same command goes on where it stopped")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
