"""Loads a running server: `python launch/load_server.py --url http://127.0.0.1:8080 [--clients 16] ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import CommandParser, add_fields, run_command
from prorank_jax.config_checks import require_new_file
from prorank_jax.run_folder import write_json
from prorank_jax.serving.load import LoadOptions, run_load


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 each request was answered rightly or refused with 503, 1 not, 2 bad input."""
    return run_command(lambda: _load(arguments))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python launch/load_server.py",
        description="Loads a running server and checks each answer.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_fields(parser, LoadOptions)
    parser.add_argument("--output", type=Path, help="a new JSON file for the report")
    return parser


def _load(arguments: list[str]) -> int:
    given = vars(_parser().parse_args(arguments))
    output, console = given.pop("output"), Console()
    options = LoadOptions(**given)
    if output:
        require_new_file("output", output)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("requests", total=options.requests)
        report = run_load(options, lambda: bar.advance(task))
    table = Table(title=f"{options.requests} requests of {options.documents} documents", show_header=False)
    for name, value in report.items():
        if name != "options":
            table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
    console.print(table)
    if output:
        write_json(output, report)
    return 0 if report["right"] and not report["lost"] and not report["problems"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
