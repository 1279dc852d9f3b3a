"""Trains on the devices there are: `python launch/tpu_train.py --stage 1|2 [--init RUN_OR_MODEL]`.

One process of several where the environment names its peers: see `prorank_jax.machine`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_SIGTERM = 2, 130, 143
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed
USAGE = (
    "usage: python launch/tpu_train.py --stage 1|2 [--init RUN_OR_MODEL] [--config FILE.yaml] "
    "[--section.field VALUE ...]"
)


def join_peers() -> None:
    """Meets the other processes of this run, if the environment names any; waits for them up to 5 minutes."""
    from prorank_jax.machine import distributed_arguments, skip_absent_tpu

    skip_absent_tpu()
    arguments = distributed_arguments()
    if arguments is not None:
        import jax

        jax.config.update("jax_enable_preemption_service", False)  # `preemption` agrees on a stop itself
        jax.distributed.initialize(**arguments)


def main(arguments: list[str]) -> int:
    """Runs the job; returns the exit code: 0 done, 2 bad input, 130 interrupted, 143 stopped by SIGTERM."""
    if {"-h", "--help"} & set(arguments):
        from prorank_jax.config_files import describe_fields

        print(f"{USAGE}\n\n{describe_fields()}")
        return 0
    from prorank_jax.config_files import load_config, parse_command_line

    try:
        config_file, overrides = parse_command_line(arguments)
        config = load_config(config_file, overrides)
        join_peers()
        from prorank_jax.preemption import Interrupted
        from prorank_jax.train import train

        try:
            train(config)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return EXIT_SIGTERM
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
