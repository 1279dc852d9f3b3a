"""The shape of the demo's fact tables, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass

WORDINGS = 4


@dataclass(frozen=True)
class Attribute:
    """One thing one can ask about every entity of a domain.

    Attributes:
        questions: questions about an entity `{x}`, worded unlike the values.
        topics: the questions' subject as a noun phrase; the easier documents carry it as a heading.
        traps: sentences about something else that carries the entity's `{name}`, with the questions' words.
        values: value → four wordings of one predicate; the last is kept for questions that seek the entity.
        exclusive: an entity with one value has none of the others, so that those may be denied.
    """

    name: str
    questions: tuple[str, ...]
    topics: tuple[str, ...]
    traps: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    exclusive: bool = True


@dataclass(frozen=True)
class Domain:
    """Entities of one kind and the value each has for each attribute, in the attributes' order."""

    kind: str
    attributes: tuple[Attribute, ...]
    entities: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for entity, values in self.entities.items():
            if len(values) != len(self.attributes):
                raise ValueError(
                    f"demo facts: {entity!r} has {len(values)} values; give {len(self.attributes)}"
                )
            for attribute, value in zip(self.attributes, values, strict=True):
                if len(attribute.values.get(value, ())) != WORDINGS:
                    raise ValueError(
                        f"demo facts: {attribute.name}={value!r} of {entity!r} needs {WORDINGS} wordings"
                    )


def parse_values(table: str) -> dict[str, tuple[str, ...]]:
    """Lines `value: wording | wording | wording | wording` as a mapping."""
    rows = (line.strip().split(":", 1) for line in table.strip().splitlines())
    return {name.strip(): tuple(text.strip() for text in wordings.split("|")) for name, wordings in rows}


def parse_entities(table: str) -> dict[str, tuple[str, ...]]:
    """Lines `entity: value value value value` as a mapping."""
    rows = (line.strip().split(":", 1) for line in table.strip().splitlines())
    return {name.strip(): tuple(values.split()) for name, values in rows}
