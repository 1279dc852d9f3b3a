"""The pages that users read: README.md and what it leads to in docs/."""

from __future__ import annotations

from tests.cpu.tiny_run import REPOSITORY

FIRST_PAGE = "README.md"
FOLDER = "docs"


def read_pages() -> dict[str, str]:
    """The text of each page by its path in the repository, README.md first."""
    names = [FIRST_PAGE, *sorted(f"{FOLDER}/{file.name}" for file in (REPOSITORY / FOLDER).glob("*.md"))]
    return {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in names}
