"""report.html: one self-contained page with the numbers, the pictures and examples of an evaluation."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prorank_jax.evaluation.harness import Evaluation, System
from prorank_jax.evaluation.metrics import MAIN_METRIC, METRICS
from prorank_jax.evaluation.pictures import UNJUDGED, draw_gains, draw_scores
from prorank_jax.evaluation.tables import MAIN_HEADING, format_interval, format_p, format_speed
from prorank_jax.evaluation.verdict import verdict
from prorank_jax.html_page import escape, facts_table, page, paragraphs, picture, table

if TYPE_CHECKING:  # importing a collection imports jax, which this package does without
    from prorank_jax.collection import Collection

EXAMPLES = 5
# Text is escaped, so nothing in a section can look like its end.
_SECTION = re.compile(r'<section data-dataset="([^"]*)">.*?</section>', re.DOTALL)
SHOWN_DOCUMENTS = 3
_SHOWN_CHARACTERS = 240


def _overview(content: Mapping[str, Any]) -> str:
    headings = ["dataset", "queries", *(f"{metric}: first stage → reranked" for metric in METRICS)]
    headings += [f"ceiling of {MAIN_HEADING}", "delta", "p", "95% interval", "pairs/s"]

    def both(entry: Mapping[str, Any]) -> list[str]:
        return [f"{entry['first_stage'][name]:.3f} → {entry['reranked'][name]:.3f}" for name in METRICS]

    rows = [
        [
            name,
            str(entry["queries"]),
            *both(entry),
            f"{entry['ceiling'][MAIN_METRIC]:.3f}" if "ceiling" in entry else "-",
            f"{entry['delta']:+.3f}",
            format_p(entry["p_value"]),
            format_interval(entry["interval"]),
            format_speed(entry["pairs_per_second"]),
        ]
        for name, entry in content["datasets"].items()
    ]
    if "average" in content:
        mean = content["average"]
        name = "; ".join(["average", *mean.get("mixed", ())])
        rows.append([name, "", *both(mean), "", f"{mean['delta']:+.3f}", "", "", ""])
    return table(headings, rows)


def _fusions(content: Mapping[str, Any]) -> str:
    """The fused systems, each against the first stage and against the model alone."""
    rows = []
    for name, entry in content["datasets"].items():
        fusion = entry.get("fusion")
        if fusion is None:
            continue
        for against, part in (("first stage", "over_first_stage"), ("model alone", "over_reranked")):
            over = fusion[part]
            rows.append(
                [
                    f"{name}, fused ({fusion['label']})",
                    f"{fusion['metrics'][MAIN_METRIC]:.3f}",
                    against,
                    f"{over['delta']:+.3f}",
                    format_p(over["p_value"]),
                    format_interval(over["interval"]),
                    f"{over['wins']} / {over['ties']} / {over['losses']}",
                ]
            )
    headings = ["fused with the first stage", MAIN_HEADING, "against", "delta", "p", "95% interval"]
    return table([*headings, "better / equal / worse"], rows) if rows else ""


def _top_documents(system: System, query: str, collection: Collection, scores: Mapping[str, float]) -> str:
    parts = [f"<div><b>{escape(system.name)}</b>"]
    grades = collection.qrels[query]
    for rank, identifier in enumerate(system.rankings[query][:SHOWN_DOCUMENTS], start=1):
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
        f'<section data-dataset="{escape(name)}"><h2>{escape(name)}</h2>',
        picture(draw_gains(evaluation), "Change in nDCG@10 of each query"),
        picture(draw_scores(evaluation, collection.qrels), "Scores by grade"),
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
    return "".join([*parts, "</section>"])


def sections_of(rendered: str) -> dict[str, str]:
    """The sections of a page that `render_page` made, by the names of their datasets."""
    return {html.unescape(match[1]): match[0] for match in _SECTION.finditer(rendered)}


def _verdicts(content: Mapping[str, Any]) -> str:
    parts = []
    for name, entry in content["datasets"].items():
        parts += [f"<h3>{escape(name)}</h3>", paragraphs(verdict(entry, content["top_k"]))]
    return "".join(parts)


def render_page(content: Mapping[str, Any], sections: Mapping[str, str]) -> str:
    """The whole page: the content of metrics.json in words and numbers, then the datasets' sections."""
    instruction = content["instruction"]
    facts = {
        "model": content["model"],
        "documents reranked for each query": content["top_k"],
        "longest prompt in tokens": content["max_length"],
        "instruction": "the model's own" if instruction is None else instruction or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }
    samples = [name for name, entry in content["datasets"].items() if entry.get("sampled_from")]
    note = [f"Measured on a random sample of the queries: {', '.join(samples)}."] if samples else []
    found = [sections[name] for name in content["datasets"] if name in sections]
    parts = [facts_table(facts), _verdicts(content), _overview(content), _fusions(content), paragraphs(note)]
    return page(f"Evaluation of {content['model']}", [*parts, *found])
