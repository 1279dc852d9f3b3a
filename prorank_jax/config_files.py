"""Reads a `RunConfig` from a YAML file and dotted overrides (`--train.steps 100`)."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import draccus
import yaml

from prorank_jax.config import RunConfig


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
    """A nested mapping as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _check_field(name: str, value: Any, paths: dict[str, Any], origin: str) -> None:
    if name not in paths:
        close = difflib.get_close_matches(name, paths, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(paths)}"
        raise ValueError(f"{origin}: unknown field {name}={value!r}; {hint}")
    wanted = paths[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    matches = {
        int: is_number and float(value).is_integer() and not isinstance(value, float),
        float: is_number,
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }.get(wanted, isinstance(value, list | tuple))
    type_name = (
        getattr(wanted, "__name__", str(wanted)) if wanted in (int, float, bool, str) else "list of int"
    )
    if not matches:
        raise ValueError(f"{origin}: {name}={value!r} has the wrong type; give a value of type {type_name}")


def _parse_override(text: str, wanted: Any) -> Any:
    if wanted is str:
        return text
    try:
        value = yaml.safe_load(text)
        if wanted is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
            value = float(value)
    except (yaml.YAMLError, ValueError):
        return text
    return value


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--train.steps", "3"]` or `["--train.steps=3"]` as `{"train.steps": 3}`.

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
        if not equals:
            if not rest:
                raise ValueError(f"command line: --{name} has no value; write --{name} VALUE")
            text = rest.pop(0)
        overrides[name] = _parse_override(text, paths.get(name))
        _check_field(name, overrides[name], paths, "command line")
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"--config={str(path)!r}: no such file; name a YAML file such as configs/stage1.yaml"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    paths, flat = field_paths(), flatten(tree)
    for name, value in flat.items():
        if paths.get(name) is float and isinstance(value, str):
            flat[name] = _parse_override(value, float)
        _check_field(name, flat[name], paths, str(path))
    return flat


def config_from_flat(flat: dict[str, Any]) -> RunConfig:
    """A checked `RunConfig` from dotted names; the fields that are not named keep their defaults."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
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

    Raises:
        ValueError: unknown field, wrong type, or a value that cannot work; the message names it.
    """
    flat = _read_yaml(Path(path)) if path else {}
    return config_from_flat(flat | (overrides or {}))


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as nested plain values, ready for YAML or JSON."""
    return draccus.encode(config)
