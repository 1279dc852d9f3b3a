"""Reads a `RunConfig` from a YAML file and dotted overrides (`--train.steps 100`)."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import draccus
import yaml

from prorank_jax.config import RunConfig
from prorank_jax.config_sources import of_chosen_source

if TYPE_CHECKING:
    from etils import epath

# `--init runs/stage1` says in a word what stage 2 starts from.
SHORT_NAMES = {"init": "model.source"}
_NUMBER_OR_NONE = float | None
# Sections of a file that hold for one stage only, so that one file serves both.
STAGE_SECTIONS = {1: "stage1", 2: "stage2"}


def field_paths(cls: type = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Every dotted leaf field of a config class with its type, e.g. `train.steps: int`."""
    hints = typing.get_type_hints(cls)
    paths: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            paths |= field_paths(typing.cast(type, hints[item.name]), f"{prefix}{item.name}.")
        else:
            paths[f"{prefix}{item.name}"] = hints[item.name]
    return paths


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names; an empty mapping stays as it is."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _matches(value: Any, wanted: Any) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if wanted is int:
        return is_integer
    if wanted is float:
        return isinstance(value, float) or is_integer
    if wanted == _NUMBER_OR_NONE:
        return value is None or _matches(value, float)
    if wanted in (bool, str):
        return isinstance(value, wanted)
    item_type = typing.get_args(wanted)[0]
    return isinstance(value, list | tuple) and all(_matches(item, item_type) for item in value)


def _type_name(wanted: Any) -> str:
    if wanted == _NUMBER_OR_NONE:
        return "float, or null"
    return wanted.__name__ if wanted in (int, float, bool, str) else "list of int, e.g. [128, 256]"


def _check_field(name: str, value: Any, paths: dict[str, Any], origin: str) -> None:
    if name in paths:
        if not _matches(value, paths[name]):
            remedy = f"give a value of type {_type_name(paths[name])}"
            raise ValueError(f"{origin}: {name}={value!r} has the wrong type; {remedy}")
        return
    inside = [path for path in paths if path.startswith(f"{name}.")]
    if inside:
        raise ValueError(f"{origin}: {name}={value!r} is a section; name a field of it, e.g. {inside[0]}")
    close = difflib.get_close_matches(name, paths, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(paths)}"
    raise ValueError(f"{origin}: unknown field {name}={value!r}; {hint}")


def _parse_override(text: str, wanted: Any) -> Any:
    """The value a text stands for, or the text itself where it is none of that type."""
    if wanted == _NUMBER_OR_NONE:
        return None if text == "null" else _parse_override(text, float)
    if wanted in (int, float):
        try:
            return wanted(text)
        except ValueError:
            return text
    if wanted is str:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--train.steps", "3"]` or `["--train.steps=3"]` as `{"train.steps": 3}`.

    `--init X` stands for `--model.source X`.

    Raises:
        ValueError: an argument that is no `--name value` pair, or a field there is not.
    """
    paths = field_paths()
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise ValueError(f"command line: {argument!r} is no option; write --section.field VALUE")
        name, equals, text = argument[2:].partition("=")
        name = SHORT_NAMES.get(name, name)
        if not equals:
            if not rest:
                raise ValueError(f"command line: --{name} has no value; write --{name} VALUE")
            text = rest.pop(0)
        value = _parse_override(text, paths.get(name, str))
        _check_field(name, value, paths, "command line")
        overrides[name] = value
    return overrides


class _ConfigLoader(yaml.SafeLoader):
    """Plain YAML only: a key given twice would silently win, and an alias could contain itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{self.peek_event().anchor} is not allowed; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"{twice[0]} is given twice; merge the two")
        return super().construct_mapping(node, deep=deep)


def read_plain_yaml(file: Path | epath.Path) -> Any:
    """What a YAML file says, plain values only.

    Raises:
        ValueError: it is no YAML, or has tags, aliases, a key twice, or too many levels.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _ConfigLoader)  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"--config={str(path)!r}: no such file; name a YAML file such as configs/stage1.yaml"
        )
    tree = read_plain_yaml(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    paths = field_paths()
    flat: dict[str, Any] = {}
    for name, value in flatten(tree).items():
        section, _, inner = name.partition(".")
        field = inner if section in STAGE_SECTIONS.values() else name
        if field == "stage" and field != name:
            raise ValueError(f"{path}: {name}={value!r}; a section of a stage cannot choose the stage")
        if section in STAGE_SECTIONS.values() and not inner and value not in (None, {}):
            raise ValueError(f"{path}: {name}={value!r} is a section; put fields into it")
        if value in (None, {}) and (not field or any(path.startswith(f"{field}.") for path in paths)):
            continue  # a section with nothing in it
        if paths.get(field) in (float, _NUMBER_OR_NONE) and isinstance(value, str):
            value = _parse_override(value, float)  # YAML 1.1 reads 1e-5 as a string
        _check_field(field, value, paths, str(path))
        flat[name] = value
    return flat


def _for_stage(flat: dict[str, Any], stage: Any) -> dict[str, Any]:
    """The fields of a file as they are for one stage: what its own section says comes before the rest."""
    common = {
        name: value for name, value in flat.items() if name.partition(".")[0] not in STAGE_SECTIONS.values()
    }
    return common | _in_section(flat, stage)


def _in_section(flat: dict[str, Any], stage: Any) -> dict[str, Any]:
    prefix = f"{STAGE_SECTIONS.get(stage)}."
    return {name[len(prefix) :]: value for name, value in flat.items() if name.startswith(prefix)}


def read_for_stage(path: str | Path, stage: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a file as they are for one stage, and those of them that its section says.

    Raises:
        ValueError: as `load_config`, of names and types.
    """
    flat = _read_yaml(Path(path))
    return _for_stage(flat, stage), _in_section(flat, stage)


def config_from_flat(flat: dict[str, Any], origin: str = "config") -> RunConfig:
    """A checked `RunConfig` from dotted names; the fields that are not named keep their defaults.

    Raises:
        ValueError: unknown field, wrong type, or a value that cannot work; the message names it.
    """
    paths = field_paths()
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        _check_field(name, value, paths, origin)
        *sections, leaf = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    try:
        return draccus.decode(RunConfig, tree)
    except draccus.ParsingError as error:
        # A check of ours that failed inside draccus is its cause; the user needs that sentence.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(str(cause)) from error


def load_config(path: str | Path | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Reads a YAML file (or nothing), applies dotted overrides, and checks the result.

    The sections `stage1` and `stage2` of a file hold the fields that differ between the stages. What a file
    says of its `data.source` is left out where the overrides name another; see `of_chosen_source`.

    Raises:
        ValueError: unknown field, wrong type, or a value that cannot work; the message names it.
    """
    overrides = overrides or {}
    flat: dict[str, Any] = {}
    if path:
        flat = _read_yaml(Path(path))
        flat = _for_stage(flat, overrides.get("stage", flat.get("stage", 1)))
        flat = of_chosen_source(flat, overrides, Path(path))
    flat |= overrides
    if flat.get("stage") == 2:
        flat.setdefault("output_dir", "runs/stage2")
    return config_from_flat(flat)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as nested plain values, ready for YAML or JSON."""
    return draccus.encode(config)


def parse_command_line(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Splits a launcher's arguments into the `--config` file, if one is named, and the overrides.

    Raises:
        ValueError: as `parse_overrides`.
    """
    rest = [
        part for text in arguments for part in (text.split("=", 1) if "--config=" in text[:9] else [text])
    ]
    if "--config" not in rest:
        return None, parse_overrides(rest)
    at = rest.index("--config")
    if at + 1 == len(rest):
        raise ValueError("command line: --config has no value; name a YAML file such as configs/stage1.yaml")
    return rest[at + 1], parse_overrides(rest[:at] + rest[at + 2 :])


def default_fields(section: str = "") -> dict[str, Any]:
    """The dotted fields of a config, or of one section of it (`data.`), at their defaults.

    The default of a field that came later has the meaning that work without the field had.
    """
    fields = flatten(config_to_dict(RunConfig()))
    return {name: value for name, value in fields.items() if name.startswith(section)}


def describe_fields() -> str:
    """One line for each field of a config, with its default: the launchers' help text."""
    return "\n".join(f"  --{name} (default {value!r})" for name, value in default_fields().items())
