"""Compiles for TPUs or GPUs that are not there: `python launch/aot_compile.py --topology v5e:2x4`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command


def main(arguments: list[str]) -> int:
    """Compiles and reports; returns 0 if all fits, 1 if something does not, 2 bad input, 130 interrupted."""

    def command() -> int:
        from prorank_jax.aot.environment import prepare_environment
        from prorank_jax.aot.options import parse_options, usage

        if {"-h", "--help"} & set(arguments):
            print(usage())
            return 0
        options = parse_options(arguments)
        prepare_environment(options.platforms)
        from rich.console import Console

        from prorank_jax.aot.command import run_aot

        return run_aot(options, Console())

    return run_command(command, interrupted="nothing was written")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
