"""Compiles all configs for TPUs that are not there: `python launch/aot_table.py [CONFIG.yaml ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository need not be installed

EXIT_FITS, EXIT_TOO_LARGE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line; exits with 2 where they cannot be read."""
    parser = argparse.ArgumentParser(prog="python launch/aot_table.py", description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, help="default: all of configs/tpu")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/aot"), help="default: runs/aot")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Compiles what is not known yet; returns 0 if all fits, 1 if not, 2 bad input, 130 interrupted."""
    options = parse_arguments(arguments)
    configs = options.configs or sorted((ROOT / "configs" / "tpu").glob("*.yaml"))
    try:
        from prorank_jax.aot.environment import prepare_environment

        prepare_environment()
        from rich.console import Console

        from prorank_jax.aot.compile_table import TABLE_MARKDOWN, compile_all

        fits = compile_all(configs, options.output_dir, Console())
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    print((options.output_dir / TABLE_MARKDOWN).read_text(encoding="utf-8"))
    return EXIT_FITS if fits else EXIT_TOO_LARGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
