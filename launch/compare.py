"""Compares models: `python launch/compare.py NAME=MODEL ... --dataset D --output_dir FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed


def main(arguments: list[str]) -> int:
    """Runs the comparison; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    from prorank_jax.compare import compare_models, parse_options, usage

    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    try:
        compare_models(parse_options(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
