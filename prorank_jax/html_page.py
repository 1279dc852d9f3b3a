"""Pieces of the self-contained pages that evaluations and training runs leave; every text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border: 1px solid #ccc; padding: .3rem .6rem }
th { background: #f2f2f2; text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums }
td { overflow-wrap: anywhere } pre { background: #f7f7f7; padding: .8rem; overflow-x: auto }
img { max-width: 100%; height: auto } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
.document { border-left: 3px solid #ccc; padding-left: .6rem; margin: .5rem 0; overflow-wrap: anywhere }
.relevant { border-color: #2a7f62 } small { color: #666 } summary { cursor: pointer; margin: .4rem 0 }
"""


def escape(text: str) -> str:
    """Text as HTML that means nothing but itself, inside elements and quoted attributes alike.

    Halves of surrogate pairs, which file names may hold and UTF-8 cannot, become question marks.
    """
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _row(cells: Sequence[str], tag: str = "td") -> str:
    first, *numbers = (escape(cell) for cell in cells)
    return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="n">{n}</{tag}>' for n in numbers) + "</tr>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells after the first of each row are numbers, which stand on the right."""
    return f"<table>{_row(headings, 'th')}{''.join(_row(row) for row in rows)}</table>"


def facts_table(facts: Mapping[str, object]) -> str:
    """A table of names and values, without headings; floats to five digits."""
    shown = ((name, f"{fact:.5g}" if isinstance(fact, float) else str(fact)) for name, fact in facts.items())
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(fact)}</td></tr>" for name, fact in shown)
    return f"<table>{''.join(rows)}</table>"


def picture(png: bytes | None, caption: str) -> str:
    """A PNG inside the page, under its caption; nothing where there is none."""
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    return f'<h3>{escape(caption)}</h3><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'


def paragraphs(sentences: Iterable[str]) -> str:
    """Each text as a paragraph of its own."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document: the title as its heading, then parts that are HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )
