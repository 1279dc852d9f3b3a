"""Probes a model on held-out prompts: `python launch/probe.py --init MODEL [--config FILE.yaml] [...]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository need not be installed

from prorank_jax.command_line import leave, run_command, take_option

USAGE = (
    "usage: python launch/probe.py --init RUN_OR_MODEL [--config FILE.yaml] [--data_folder FOLDER] "
    "[--section.field VALUE ...]\n"
    "Writes format rate, accuracy and AUC (with --stage 2 also the AUC within queries) on the prompts that a "
    "run of this config holds out to OUTPUT_DIR/probe.json. Each model needs an OUTPUT_DIR of its own, "
    "which is runs/probe unless --output_dir names it."
)


def probe(arguments: list[str]) -> None:
    """Reads the config and probes its model."""
    from prorank_jax.config_files import describe_fields, load_config, parse_command_line

    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\n\n{describe_fields()}")
        return
    folder, rest = take_option("--data_folder", "FOLDER", arguments)
    config_file, overrides = parse_command_line(rest)
    # Never the output_dir of a config file: that is the folder of a run.
    config = load_config(config_file, {"output_dir": "runs/probe"} | overrides)
    from prorank_jax.model_probe import probe_model  # takes seconds to import

    probe_model(config, None if folder is None else Path(folder))


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_command(lambda: probe(arguments), interrupted="the same command begins again")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
