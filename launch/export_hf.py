"""Exports a model as a folder: `python launch/export_hf.py --model RUN_OR_MODEL --output_dir FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import CommandParser, leave, local_folder, run_command
from prorank_jax.launching import sigterm_interrupts


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line; a ValueError where they cannot be read."""
    parser = CommandParser(prog="python launch/export_hf.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", required=True, help="run directory, RUN@STEP, model folder, hub id or GGUF file"
    )
    parser.add_argument("--output_dir", required=True, type=local_folder, help="a new or empty folder")
    parser.add_argument("--dtype", default="float32", help="float32 (default, bit-equal) or bfloat16")
    parser.add_argument("--metrics", nargs="*", default=[], type=Path, help="metrics.json files to cite")
    parser.add_argument("--name", default="", help="the model's name in its card (default: the folder's)")
    parser.add_argument("--max_length", type=int, help="longest prompt in tokens (the model's own)")
    parser.add_argument("--system", help="system sentence (the model's own)")
    parser.add_argument("--instruction", help="put in front of each query (the model's own)")
    parser.add_argument("--license", default="unknown", help="for the card, e.g. apache-2.0")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Exports the model; returns the exit code: 0 done, 2 bad input, 130 interrupted, 143 SIGTERM."""

    def command() -> None:
        options = parse_arguments(arguments)
        from prorank_jax.export_folder import export_folder  # takes seconds to import

        with sigterm_interrupts("nothing was written"):
            settings = export_folder(
                options.model,
                options.output_dir,
                dtype=options.dtype,
                metrics_files=options.metrics,
                name=options.name,
                license_id=options.license,
                max_length=options.max_length,
                system=options.system,
                instruction=options.instruction,
            )
        print(f"{options.output_dir}: exported; its README.md says how to use it")
        if settings.excerpts != "head":
            print(
                f"warning: trained with data.excerpts {settings.excerpts}, which other libraries do not "
                "know: they cut the end of a long document, which gives other scores; launch/evaluate.py "
                "--excerpts head measures those",
                file=sys.stderr,
            )

    return run_command(command, interrupted="nothing was written")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
