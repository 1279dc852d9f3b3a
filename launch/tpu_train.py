"""Trains on the devices there are: `python launch/tpu_train.py --stage 1|2|both [--init RUN_OR_MODEL]`.

It is one process of several where the environment names its peers: see `machine.distributed_arguments`.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command

USAGE = (
    "usage: python launch/tpu_train.py --stage 1|2|both [--init RUN_OR_MODEL] [--config FILE.yaml] "
    "[--section.field VALUE ...]\n\n"
    "--stage both trains stage 1 and then stage 2 from it, in the folders stage1 and stage2 of output_dir; "
    "--stage1.train.steps 40 is for one of them."
)


def join_peers() -> bool:
    """Meets the other processes of this run, waiting up to five minutes; False if there are none."""
    from prorank_jax.machine import distributed_arguments

    arguments = distributed_arguments()
    if arguments is not None:
        import jax

        jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM for itself
        jax.distributed.initialize(**arguments)
    return arguments is not None


def run(arguments: list[str]) -> None:
    """Reads the config of each stage, then trains.

    Raises:
        Interrupted: SIGTERM arrived; what is done is saved, and the next stage has not begun.
    """
    from prorank_jax.config_files import describe_fields
    from prorank_jax.stage_plan import planned_runs

    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\n\n{describe_fields()}")
        return
    agreement = nullcontext
    if join_peers():
        from prorank_jax.processes import succeed_together as agreement
    with agreement():
        runs = planned_runs(arguments)
    from prorank_jax.launching import Interrupted
    from prorank_jax.preemption import anyone_was_told
    from prorank_jax.setup import check_later_run
    from prorank_jax.train import train

    for config in runs[1:]:
        check_later_run(config, runs[0])
    told: list[int] = []
    for config in runs:
        if config is not runs[0] and anyone_was_told(told):
            raise Interrupted(f"stopped before stage {config.stage}; the same command goes on from there")
        train(config, told=told)


def main(arguments: list[str]) -> int:
    """Returns the exit code, or raises.

    0 done, 1 a place out of reach, 2 bad input, 130 interrupted, 143 stopped by SIGTERM.
    """
    return run_command(
        lambda: run(arguments), interrupted="the same command resumes from the last checkpoint"
    )


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
