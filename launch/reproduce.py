"""Runs the paper's ablation: `python launch/reproduce.py --dataset FOLDER [--seeds 0 1 2] [...]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import run_command


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 2 bad input or a launcher failed, 130 interrupted, 143 SIGTERM."""

    def command() -> None:
        from prorank_jax.reproduce.command_line import parse_options

        options = parse_options(arguments)
        from prorank_jax.reproduce.command import reproduce  # takes seconds to import

        reproduce(options)

    return run_command(command, interrupted="the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
