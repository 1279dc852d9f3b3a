"""Compiles for TPUs that are not there: `python launch/aot_compile.py --config FILE --topology v5e:2x4`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed


def main(arguments: list[str]) -> int:
    """Compiles and reports; returns 0 if all fits, 1 if something does not, 2 bad input, 130 interrupted."""
    from prorank_jax.aot.environment import prepare_environment
    from prorank_jax.aot.options import parse_options, usage

    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    try:
        options = parse_options(arguments)
        prepare_environment()
        from rich.console import Console

        from prorank_jax.aot.command import run_aot

        return run_aot(options, Console())
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
