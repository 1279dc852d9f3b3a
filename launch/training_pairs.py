"""Writes what a teacher may score for stage 2: `python launch/training_pairs.py --pairs FILE [...]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command, take_option
from prorank_jax.source_names import is_url

USAGE = (
    "usage: python launch/training_pairs.py --pairs FILE.jsonl [--config FILE.yaml] "
    "[--section.field VALUE ...]\n"
    "Writes query and passage of every candidate that stage 2 of this config may put into its lists, one a "
    "line. Add a teacher's `score` to each line; data.teacher_scores may then name that file. The data, the "
    "split and train.seed must be those of the training run."
)
PAIRS = "--pairs"


def write_pairs(arguments: list[str]) -> None:
    """Reads the config and writes its pairs."""
    from prorank_jax.config_files import describe_fields, load_config, parse_command_line

    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\n\n{describe_fields()}")
        return
    file, rest = take_option(PAIRS, "FILE.jsonl", arguments)
    if file is None:
        raise ValueError(f"command line: no {PAIRS}; write {PAIRS} FILE.jsonl, a new file")
    if is_url(file):
        raise ValueError(f"command line: {PAIRS} {file}: is a URL; name a file on this machine")
    config_file, overrides = parse_command_line(rest)
    config = load_config(config_file, {"stage": 2, **overrides})
    from prorank_jax.training_pairs import write_training_pairs  # takes seconds to import

    count = write_training_pairs(config, Path(file))
    print(f"{file}: {count} pairs; with a score on each line, name it as data.teacher_scores")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(lambda: write_pairs(arguments), interrupted="nothing was written")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
