"""Pictures that nobody looks at, drawn roughly: laying one out takes longer than a step of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from matplotlib.figure import Figure

ROUGH = 20


@contextmanager
def drawing_roughly() -> Iterator[None]:
    """While it is entered; tests of pictures and of whole runs draw in full."""
    savefig = Figure.savefig

    def draw_roughly(figure: Figure, *given: Any, **how: Any) -> None:
        figure.set_layout_engine("none")
        savefig(figure, *given, **how | {"dpi": ROUGH})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", draw_roughly)
        yield
