"""The command line of `launch/aot_compile.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prorank_jax.aot.chips import CHIPS, Topology, parse_topology
from prorank_jax.config import RunConfig
from prorank_jax.config_files import describe_fields, load_config, parse_command_line

STEPS = ("1", "2", "score")
SEARCHES = ("fixed", "grow")
USAGE = f"""usage: python launch/aot_compile.py --config FILE.yaml --topology CHIP:SHAPE [--topology ...]
           [--stage 1|2|score] [--output FILE.json] [--search fixed|grow] [--section.field VALUE ...]

Compiles a step of a run for TPUs or GPUs that are not there and says what memory it needs, and what time by
published peaks.
  --topology   e.g. v5e:2x4, v5p:2x2x1, v5e:16x16, h100:1; chips: {", ".join(CHIPS)}; may be given repeatedly
  --stage      1, 2, or score for scoring in bfloat16 (default: the config's stage)
  --output     write everything as JSON too; an existing file is refused
  --search     look for the fastest settings that fit: `fixed` keeps the batch size, `grow` tries larger ones
exit code: 0 all fit, 1 something does not, 2 bad input"""


@dataclass(frozen=True)
class AotOptions:
    """What to compile, and where to write what is found.

    Attributes:
        which: `1`, `2` or `score`.
        search: one of `SEARCHES`, or empty.
    """

    config: RunConfig
    which: str
    topologies: tuple[Topology, ...]
    output: Path | None = None
    search: str = ""

    @property
    def platforms(self) -> frozenset[str]:
        """Those that the compilers must be there for."""
        return frozenset(topology.chip.platform for topology in self.topologies)


def usage() -> str:
    """What `--help` prints."""
    return f"{USAGE}\n\n{describe_fields()}"


def parse_options(arguments: list[str]) -> AotOptions:
    """Reads a command line.

    Raises:
        ValueError: an option, a field or a topology that cannot be read, or an output that exists.
    """
    rest, own = _take_own(arguments)
    names = own["--topology"]
    if not names:
        raise ValueError("command line: no --topology; name a slice of chips such as v5e:2x4, or h100:1")
    which = _one(own, "--stage", STEPS)
    search = _one(own, "--search", SEARCHES)
    output = Path(own["--output"][-1]) if own["--output"] else None
    if output is not None and (output.exists() or not output.parent.is_dir()):
        remedy = "exists already; name a new file" if output.exists() else "no such folder; make it first"
        raise ValueError(f"--output={str(output)!r}: {remedy}")
    file, overrides = parse_command_line(rest)
    if which in ("1", "2"):
        overrides["stage"] = int(which)
    if which == "score":
        overrides.setdefault("model.compute_dtype", "bfloat16")
    config = load_config(file, overrides)
    if search and (which or str(config.stage)) == "score":
        raise ValueError("--search: scoring has no settings to search; compile it as it is")
    topologies = tuple(parse_topology(name) for name in names)
    return AotOptions(config, which or str(config.stage), topologies, output, search)


def _take_own(arguments: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """What belongs to the config, and the values of this launcher's own options."""
    own: dict[str, list[str]] = {"--topology": [], "--stage": [], "--output": [], "--search": []}
    rest: list[str] = []
    left = list(arguments)
    while left:
        name, has_value, value = left.pop(0).partition("=")
        if name not in own:
            rest.append(name + has_value + value)
            continue
        if not has_value and name == "--search" and (not left or left[0].startswith("--")):
            value = SEARCHES[0]
        elif not has_value:
            if not left or left[0].startswith("--"):
                raise ValueError(f"command line: {name} has no value")
            value = left.pop(0)
        own[name].append(value)
    return rest, own


def _one(own: dict[str, list[str]], name: str, choices: tuple[str, ...]) -> str:
    if not own[name]:
        return ""
    value = own[name][-1]
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
    return value
