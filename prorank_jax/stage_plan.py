"""Which stages a command line asks for: one of them, or both after one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prorank_jax.config import RunConfig
from prorank_jax.config_files import (
    SHORT_NAMES,
    STAGE_SECTIONS,
    load_config,
    parse_command_line,
    read_for_stage,
)
from prorank_jax.source_names import is_url

BOTH_STAGES = "both"
_STAGE = "--stage"
_START = "model.source"


def arguments_of_stage(stage: int, arguments: Sequence[str]) -> list[str]:
    """What a command line for both stages says to one: `--stage2.train.steps 9` is for stage 2 alone.

    Returns:
        The arguments without such prefixes, those of the stage behind those of both.
    """
    common, own = [], []
    position = 0
    while position < len(arguments):
        option = arguments[position]
        width = 1 if "=" in option or not option.startswith("--") else 2
        part = list(arguments[position : position + width])
        position += width
        prefix = f"--{STAGE_SECTIONS[stage]}."
        if option.startswith(prefix):
            own += ["--" + part[0].removeprefix(prefix), *part[1:]]
        elif not option.startswith(tuple(f"--{section}." for section in STAGE_SECTIONS.values())):
            common += part
    return [*common, *own]


def _without_both(arguments: Sequence[str]) -> list[str] | None:
    """The arguments without `--stage both`; None if they ask for one stage."""
    for position, argument in enumerate(arguments):
        if argument == f"{_STAGE}={BOTH_STAGES}":
            return [*arguments[:position], *arguments[position + 1 :]]
        if argument == _STAGE and list(arguments[position + 1 : position + 2]) == [BOTH_STAGES]:
            return [*arguments[:position], *arguments[position + 2 :]]
    return None


def _run_of(stage: int, arguments: Sequence[str]) -> RunConfig:
    file, overrides = parse_command_line(arguments_of_stage(stage, arguments))
    return load_config(file, overrides | {"stage": stage})


def planned_runs(arguments: Sequence[str]) -> tuple[RunConfig, ...]:
    """The runs that a launcher's arguments ask for, in order, each with a checked config.

    With `--stage both`, stage 2 starts from stage 1's folder. Where one `output_dir` is meant for both, they
    get the folders `stage1` and `stage2` in it.

    Raises:
        ValueError: a file, option or value that cannot work; nothing was run.
    """
    shared = _without_both(arguments)
    if shared is None:
        file, overrides = parse_command_line(arguments)
        return (load_config(file, overrides),)
    _refuse_other_start(shared)
    first, second = (_run_of(stage, shared) for stage in STAGE_SECTIONS)
    if _place(first.output_dir) == _place(second.output_dir):
        first, second = (
            replace(run, output_dir=_inside(run.output_dir, run.stage)) for run in (first, second)
        )
    _refuse_other_start_in_file(shared, first.output_dir)
    return first, replace(second, model=replace(second.model, source=first.output_dir))


def _inside(folder: str, stage: int) -> str:
    return f"{folder.rstrip('/')}/{STAGE_SECTIONS[stage]}"


def _place(name: str) -> str:
    """Equal for two spellings of one folder, `runs/x` and `./runs/x/`."""
    return name.rstrip("/") if is_url(name) else str(Path(name).expanduser().resolve())


def _refuse_other_start(arguments: Sequence[str]) -> None:
    prefix = f"--{STAGE_SECTIONS[2]}."
    for argument in arguments:
        name = argument.removeprefix(prefix).partition("=")[0]
        if argument.startswith(prefix) and SHORT_NAMES.get(name, name) == _START:
            raise _other_start(argument)


def _refuse_other_start_in_file(arguments: Sequence[str], first: str) -> None:
    """What a file's section may say is its own stage 1, wherever `--output_dir` has put that since."""
    file, _ = parse_command_line(arguments_of_stage(2, arguments))
    if file is None:
        return
    said = read_for_stage(file, 2)[1].get(_START)
    own = read_for_stage(file, 1)[0].get("output_dir", RunConfig.output_dir)
    if said is not None and _place(said) not in map(_place, (first, own, _inside(own, 1))):
        raise _other_start(f"{file}: {STAGE_SECTIONS[2]}.{_START}={said!r}")


def _other_start(named: str) -> ValueError:
    return ValueError(
        f"{named}: with --stage both, stage 2 starts from stage 1's result; leave it out, or run --stage 2 "
        "by itself"
    )
