"""What the model card of an export tells of its training, for whatever is made from that export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from prorank_jax.model_urls import CARD_FILE

TRAINING_HEADING = "## Training"
_SECTION = re.compile(rf"^{TRAINING_HEADING}\n\n(.*?)\n\n## ", re.MULTILINE | re.DOTALL)
_RUN = re.compile(r"^### Run (\d+): stage ([12]), \d+(?: of \d+)? steps$", re.MULTILINE)
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class CardHistory:
    """The runs that a card tells of.

    Attributes:
        text: of the card's section on training; empty: it tells of none.
        stages: of its runs, the first one first.
        base_model: hub id they started from; empty: not known.
    """

    text: str = ""
    stages: tuple[str, ...] = ()
    base_model: str = ""


NO_CARD = CardHistory()


def read_card_history(folder: Path) -> CardHistory:
    """The runs in the card of an export; none where there is no card, or it is not one of ours."""
    try:
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return NO_CARD
    section = _SECTION.search(card)
    stages = tuple(stage for _, stage in _RUN.findall(section[1])) if section else ()
    return CardHistory(section[1], stages, _base_model(card)) if section and stages else NO_CARD


def _base_model(card: str) -> str:
    front = _FRONT.match(card)
    try:
        fields = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError:
        return ""
    named = fields.get("base_model") if isinstance(fields, dict) else None
    return named if isinstance(named, str) else ""
