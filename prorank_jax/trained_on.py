"""Whether a model was trained on what it is measured on: such figures say nothing of unseen queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from prorank_jax.config import RunConfig
from prorank_jax.evaluation.names import DatasetName, place_of
from prorank_jax.model_urls import CARD_FILE
from prorank_jax.models.sources import resolve_source
from prorank_jax.pretrained import runs_behind, seen_by_run
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO, is_url

_CARD_FIELD = re.compile(r"^\| `data\.(source|split)` \| `(.*)` \|$", re.MULTILINE)

# A source of training data and its split, as a config names them.
Split = tuple[str, str]


def card_splits(card: str) -> list[Split]:
    """The source and split of each run that a model card of an export tells of.

    A card tells nobody where a folder lies: its last part alone says what it was.
    """
    splits, source = [], ""
    for field, value in _CARD_FIELD.findall(card):
        if field == "source":
            source = Path(value).name if _is_path(value) else value
        else:
            splits.append((source, value))
    return splits


def _is_path(source: str) -> bool:
    return not (source == DEMO or source.startswith(CATALOGUE_PREFIX) or is_url(source))


def _source_of(folder: Path, run: RunConfig) -> str:
    source = run.data.source
    return str(seen_by_run(folder, run, source)) if _is_path(source) else source


def _run_splits(folder: Path) -> list[Split]:
    runs, begun_from = runs_behind(folder)
    known = [(_source_of(run.folder, run.config), run.config.data.split) for run in reversed(runs)]
    return known + _read_card(begun_from)


def _read_card(folder: Path) -> list[Split]:
    try:
        return card_splits((folder / CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):  # a model without a card
        return []


def training_splits(model: str) -> list[Split]:
    """Source and split of each training stage of a run folder or an export; empty where none is known.

    Args:
        model: as `open_pretrained` takes it.

    Raises:
        ValueError: there is no such model, or an unreadable config of a run.
    """
    return _run_splits(resolve_source(model))


def was_trained_on(dataset: DatasetName, splits: Iterable[Split]) -> bool:
    """Whether one of a model's training splits is this dataset; a folder's name alone counts as the folder.

    Paths that are relative are taken from the working folder, as the run took them.
    """
    place = dataset.place
    named = (Path(place[0]).name, place[1])
    return any(place_of(*split) == place or split == named for split in splits)


def training_warnings(
    measured: Sequence[DatasetName], tuned: Sequence[DatasetName | None], splits: Sequence[Split]
) -> list[str]:
    """A line for each dataset that is measured, or that a fusion is tuned on, and that the model knows."""
    lines = [
        f"warning: {dataset.name}: the model was trained on this split; its figures say nothing of queries "
        "that it does not know. Measure on another split"
        for dataset in measured
        if was_trained_on(dataset, splits)
    ]
    names = dict.fromkeys(other.name for other in tuned if other and was_trained_on(other, splits))
    return lines + [
        f"warning: fusion_tune={name!r}: the model was trained on this split; the weight will trust it too "
        "much. Tune on a split that the model was not trained on"
        for name in names
    ]
