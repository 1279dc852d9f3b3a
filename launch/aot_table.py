"""Compiles configs for TPUs or GPUs that are not there: `python launch/aot_table.py [CONFIG.yaml ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import CommandParser, local_folder, run_command

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "tpu"
EXIT_FITS, EXIT_TOO_LARGE = 0, 1


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line; a ValueError where they cannot be read."""
    parser = CommandParser(prog="python launch/aot_table.py", description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, help="default: all of configs/tpu")
    parser.add_argument("--output_dir", type=local_folder, default=Path("runs/aot"), help="default: runs/aot")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Compiles what is not known yet; returns 0 if all fits, 1 if not, 2 bad input, 130 interrupted."""

    def command() -> int:
        options = parse_arguments(arguments)
        configs = options.configs or sorted(CONFIGS.glob("*.yaml"))
        from prorank_jax.aot.chips import accelerator_of, parse_topology
        from prorank_jax.aot.environment import prepare_environment

        prepare_environment({parse_topology(accelerator_of(file)).chip.platform for file in configs})
        from rich.console import Console

        from prorank_jax.aot.compile_table import TABLE_MARKDOWN, compile_all

        fits = compile_all(configs, options.output_dir, Console())
        print((options.output_dir / TABLE_MARKDOWN).read_text(encoding="utf-8"))
        return EXIT_FITS if fits else EXIT_TOO_LARGE

    return run_command(command, interrupted="the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
