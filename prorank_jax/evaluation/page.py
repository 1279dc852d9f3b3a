"""report.html: one self-contained page with the numbers, the pictures and examples of an evaluation."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from prorank_jax.evaluation.harness import Evaluation, System
from prorank_jax.evaluation.metrics import METRICS
from prorank_jax.evaluation.pictures import UNJUDGED, draw_gains, draw_scores
from prorank_jax.evaluation.tables import format_interval, format_p, format_speed

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

EXAMPLES = 5
_SHOWN_DOCUMENTS = 3
_SHOWN_CHARACTERS = 240
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border: 1px solid #ccc; padding: .3rem .6rem }
th { background: #f2f2f2; text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; height: auto } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
.document { border-left: 3px solid #ccc; padding-left: .6rem; margin: .5rem 0; overflow-wrap: anywhere }
.relevant { border-color: #2a7f62 } small { color: #666 } summary { cursor: pointer; margin: .4rem 0 }
"""


def _row(cells: Sequence[str], tag: str = "td") -> str:
    first, *numbers = (escape(cell) for cell in cells)
    return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="n">{n}</{tag}>' for n in numbers) + "</tr>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<table>{_row(headings, 'th')}{''.join(_row(row) for row in rows)}</table>"


def _overview(content: Mapping[str, Any]) -> str:
    headings = ["dataset", "queries", *(f"{metric}: first stage → reranked" for metric in METRICS)]
    headings += ["delta", "p", "95% interval", "pairs/s"]

    def both(entry: Mapping[str, Any]) -> list[str]:
        return [f"{entry['first_stage'][name]:.3f} → {entry['reranked'][name]:.3f}" for name in METRICS]

    rows = [
        [
            name,
            str(entry["queries"]),
            *both(entry),
            f"{entry['delta']:+.3f}",
            format_p(entry["p_value"]),
            format_interval(entry["interval"]),
            format_speed(entry["pairs_per_second"]),
        ]
        for name, entry in content["datasets"].items()
    ]
    if "average" in content:
        mean = content["average"]
        rows.append(["average", "", *both(mean), f"{mean['delta']:+.3f}", "", "", ""])
    return _table(headings, rows)


def _picture(png: bytes | None, caption: str) -> str:
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    return f'<h3>{escape(caption)}</h3><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'


def _top_documents(system: System, query: str, collection: Collection, scores: Mapping[str, float]) -> str:
    parts = [f"<div><b>{escape(system.name)}</b>"]
    grades = collection.qrels[query]
    for rank, identifier in enumerate(system.rankings[query][:_SHOWN_DOCUMENTS], start=1):
        text = collection.documents[identifier].full_text
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
        grade = f"grade {grades[identifier]}" if identifier in grades else UNJUDGED
        score = f", score {scores[identifier]:.2f}" if identifier in scores else ""
        kind = "document relevant" if grades.get(identifier, 0) > 0 else "document"
        parts.append(
            f'<div class="{kind}"><small>{rank}. {escape(identifier)}, {grade}{score}</small><br>'
            f"{escape(shown)}</div>"
        )
    if not system.rankings[query]:
        parts.append("<p>no document found</p>")
    return "".join(parts) + "</div>"


def _examples(evaluation: Evaluation, collection: Collection, queries: Sequence[str], heading: str) -> str:
    if not queries:
        return f"<h3>{escape(heading)}</h3><p>none</p>"
    parts = [f"<h3>{escape(heading)}</h3>"]
    for query in queries:
        before, after = evaluation.first_stage.main[query], evaluation.reranked.main[query]
        scored = evaluation.scores.get(query)
        scores = dict(zip(scored.documents, scored.scores, strict=True)) if scored else {}
        parts.append(
            f"<details><summary>{escape(collection.queries[query])} "
            f"<small>({escape(query)}: nDCG@10 {before:.3f} → {after:.3f})</small></summary>"
            f'<div class="two">'
            f"{_top_documents(evaluation.first_stage, query, collection, scores)}"
            f"{_top_documents(evaluation.reranked, query, collection, scores)}</div></details>"
        )
    return "".join(parts)


def largest_changes(evaluation: Evaluation, count: int = EXAMPLES) -> tuple[list[str], list[str]]:
    """The ids of the queries that gained most and of those that lost most in nDCG@10, largest first."""
    before, after = evaluation.first_stage.main, evaluation.reranked.main
    gains = {query: after[query] - before[query] for query in after}
    wins = sorted((query for query in gains if gains[query] > 0), key=lambda query: -gains[query])
    losses = sorted((query for query in gains if gains[query] < 0), key=lambda query: gains[query])
    return wins[:count], losses[:count]


def dataset_section(name: str, evaluation: Evaluation, collection: Collection) -> str:
    """The part of the page about one dataset, as HTML."""
    wins, losses = largest_changes(evaluation)
    parts = [
        f"<h2>{escape(name)}</h2>",
        _picture(draw_gains(evaluation), "Change in nDCG@10 of each query"),
        _picture(draw_scores(evaluation, collection.qrels), "Scores by grade"),
        _examples(evaluation, collection, wins, "Largest wins"),
        _examples(evaluation, collection, losses, "Largest losses"),
    ]
    other = evaluation.gain_over_compared
    if evaluation.compared and other:
        parts.insert(
            1,
            f"<p>Against {escape(evaluation.compared.name)}: {other.delta:+.3f} nDCG@10, p "
            f"{format_p(other.p_value)}, 95% interval {format_interval(other.interval)}; {other.wins} "
            f"queries better, {other.ties} equal, {other.losses} worse.</p>",
        )
    return "".join(parts)


def render_page(content: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The whole page: the content of metrics.json, then a section for each dataset."""
    facts = {
        "model": content["model"],
        "documents reranked for each query": content["top_k"],
        "longest prompt in tokens": content["max_length"],
        "instruction": content["instruction"] or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }
    samples = [name for name, entry in content["datasets"].items() if entry.get("sampled_from")]
    note = (
        f"<p>Measured on a random sample of the queries: {escape(', '.join(samples))}.</p>" if samples else ""
    )
    title = f"Evaluation of {content['model']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{_table(['', ''], [(name, str(fact)) for name, fact in facts.items()])}"
        f"{_overview(content)}{note}{''.join(sections)}</body></html>\n"
    )
