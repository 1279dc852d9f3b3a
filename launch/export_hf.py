"""Exports a model as a folder: `python launch/export_hf.py --model RUN_OR_MODEL --output_dir FOLDER`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line; exits with 2 where they cannot be read."""
    parser = argparse.ArgumentParser(prog="python launch/export_hf.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="run directory, model folder, hub id or GGUF file")
    parser.add_argument("--output_dir", required=True, type=Path, help="a new or empty folder")
    parser.add_argument("--dtype", default="float32", help="float32 (default, bit-equal) or bfloat16")
    parser.add_argument("--metrics", nargs="*", default=[], type=Path, help="metrics.json files to cite")
    parser.add_argument("--name", default="", help="the model's name in its card (default: the folder's)")
    parser.add_argument("--license", default="unknown", help="for the card, e.g. apache-2.0")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Exports the model; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    options = parse_arguments(arguments)
    try:
        from prorank_jax.export_folder import export_folder

        export_folder(
            options.model,
            options.output_dir,
            dtype=options.dtype,
            metrics_files=options.metrics,
            name=options.name,
            license_id=options.license,
        )
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"{options.output_dir}: exported; its README.md says how to use it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
