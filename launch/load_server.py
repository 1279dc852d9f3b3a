"""Loads a running server: `python launch/load_server.py --url http://127.0.0.1:8080 [--clients 16] ...`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

EXIT_WRONG_OR_LOST, EXIT_BAD_INPUT = 1, 2


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 each request was answered rightly or refused with 503, 1 not, 2 bad input."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from prorank_jax.run_folder import write_json
    from prorank_jax.serving.load import LoadOptions, run_load

    parser = argparse.ArgumentParser(prog="python launch/load_server.py", description=LoadOptions.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, kind in typing.get_type_hints(LoadOptions).items():
        default = {item.name: item.default for item in dataclasses.fields(LoadOptions)}[name]
        parser.add_argument(f"--{name}", type=kind, required=name == "url", default=default)
    parser.add_argument("--output", type=Path, help="a JSON file for the report")
    given = vars(parser.parse_args(arguments))
    output = given.pop("output")
    console = Console()
    try:
        options = LoadOptions(**given)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("requests", total=options.requests)
            report = run_load(options, lambda: bar.advance(task))
        if output:
            write_json(output, report)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    table = Table(title=f"{options.requests} requests of {options.documents} documents", show_header=False)
    for name, value in report.items():
        if name != "options":
            table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
    console.print(table)
    is_sound = report["right"] and not report["lost"] and not report["problems"]
    return 0 if is_sound else EXIT_WRONG_OR_LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
