"""What the evaluation is about, by name: datasets as they are asked for, and the folders they get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prorank_jax.source_names import (
    CATALOGUE_PREFIX,
    DEMO,
    SourceFields,
    find_dataset,
    is_url,
    same_for_all_names,
)

DEFAULT_SPLIT = "test"
FORMS = (
    f"give {DEMO!r}, FOLDER:split of a BEIR folder or its URL, or an id of ir_datasets such as "
    "'beir/scifact/test'"
)
# What a dataset's parts are called inside `naming`.
PARTS = SourceFields("source", "split")
_LONGEST_SLUG = 100


@dataclass(frozen=True)
class DatasetName:
    """A dataset as `corpora.load_collection` takes it.

    Attributes:
        name: as it was asked for.
        source: `demo`, a folder or its URL, or `ir_datasets:ID`.
        split: of the judgements; empty for ir_datasets, whose ids name their own.
    """

    name: str
    source: str
    split: str

    @property
    def slug(self) -> str:
        """The name as a folder name."""
        return slug(self.name)

    @property
    def place(self) -> tuple[str, str]:
        """The same for all names of one split."""
        return place_of(self.source, self.split)


def place_of(source: str, split: str) -> tuple[str, str]:
    """What tells a split from others, however it is named: a resolved folder, a URL or an id, and the split.

    Args:
        source: as `DatasetName.source`, or the `data.source` of a config.
        split: ignored for ir_datasets, whose ids name their own.
    """
    return same_for_all_names(source), "" if source.startswith(CATALOGUE_PREFIX) else split


@contextmanager
def naming(dataset: DatasetName, option: str = "dataset") -> Iterator[None]:
    """Puts the option that named a dataset, and its name, in front of an error about it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}={dataset.name!r}: {error}") from error


def slug(name: str) -> str:
    """A name with `-` for everything that has no place in a file name; long ones keep their end."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-_LONGEST_SLUG:].strip("-.") or "unnamed"


def _splits(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))


def _folder_without_split(name: str) -> DatasetName:
    folder = Path(name).expanduser()
    splits = _splits(folder)
    if DEFAULT_SPLIT not in splits:
        there = " or ".join(f"{name}:{split}" for split in splits)
        remedy = f"name a split: {there}" if splits else "a BEIR folder holds qrels/<split>.tsv"
        raise ValueError(f"dataset={name!r}: has no {DEFAULT_SPLIT!r} split; {remedy}")
    return DatasetName(name, str(folder), DEFAULT_SPLIT)


def _at_url(name: str) -> DatasetName:
    """A folder at a URL, whose last part may name a split behind a colon."""
    folder, _, split = name.rpartition(":")
    if is_url(folder) and "/" not in split:
        return DatasetName(name, folder, split)
    return DatasetName(name, name, DEFAULT_SPLIT)


def _check_known(identifier: str, name: str) -> None:
    find_dataset(identifier, f"dataset={name!r}: no folder and no id of ir_datasets", FORMS)


def parse_dataset(name: str) -> DatasetName:
    """Finds out what a dataset argument means; needs no network.

    Args:
        name: `demo` or `demo:SPLIT`, `FOLDER` or `FOLDER:SPLIT`, the same of a URL, or an id of ir_datasets.

    Raises:
        ValueError: no such folder or id (the nearest ids are named), or a folder without a default split.
    """
    if not name.strip():
        raise ValueError(f"dataset={name!r}: is empty; {FORMS}")
    if name == DEMO or name.startswith(f"{DEMO}:"):
        return DatasetName(name, DEMO, name.partition(":")[2] or DEFAULT_SPLIT)
    if name.startswith(CATALOGUE_PREFIX):
        identifier = name.removeprefix(CATALOGUE_PREFIX)
        _check_known(identifier, name)
        return DatasetName(name, name, "")
    if is_url(name):
        return _at_url(name)
    if Path(name).expanduser().is_dir():
        return _folder_without_split(name)
    folder, colon, split = name.rpartition(":")
    if colon and Path(folder).expanduser().is_dir():
        return DatasetName(name, str(Path(folder).expanduser()), split)
    if Path(folder if colon else name).expanduser().is_file():
        raise ValueError(
            f"dataset={name!r}: a file; a file of training groups has no collection to rank, so {FORMS}"
        )
    if colon or name.startswith(("/", ".", "~")):
        raise ValueError(f"dataset={name!r}: no such folder; {FORMS}")
    _check_known(name, name)
    return DatasetName(name, CATALOGUE_PREFIX + name, "")


def parse_datasets(names: Sequence[str]) -> list[DatasetName]:
    """All datasets of one call; each must get a folder of its own.

    Raises:
        ValueError: none, an unknown one, two that cannot be told apart, or one split under two names.
    """
    if not names:
        raise ValueError(f"dataset: none was named; {FORMS}")
    owners: dict[str, str] = {}
    for name in names:
        if slug(name) in owners:
            raise ValueError(
                f"dataset={name!r}: cannot be told apart from {owners[slug(name)]!r}; name each once"
            )
        owners[slug(name)] = name
    datasets: dict[tuple[str, str], DatasetName] = {}
    for dataset in map(parse_dataset, names):
        other = datasets.setdefault(dataset.place, dataset).name
        if other != dataset.name:
            raise ValueError(
                f"dataset={dataset.name!r}: is the split that {other!r} names too: it would count twice in "
                "the average; name each once"
            )
    return list(datasets.values())


def check_same_names(datasets: Sequence[DatasetName], earlier: Iterable[str]) -> None:
    """Refuses another name for a split that a folder has results of: it would count twice in the average.

    Raises:
        ValueError: names both.
    """
    names: dict[tuple[str, str], str] = {}
    for name in earlier:
        with suppress(ValueError):  # what it named is gone
            names[parse_dataset(name).place] = name
    for dataset in datasets:
        before = names.get(dataset.place, dataset.name)
        if before != dataset.name:
            raise ValueError(
                f"dataset={dataset.name!r}: the output folder has this split as {before!r}; name it so, or "
                "name another output_dir"
            )
