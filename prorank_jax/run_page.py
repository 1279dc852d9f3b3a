"""report.html of a training run: what became of it in words, the probes, the picture, facts and config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prorank_jax.html_page import escape, facts_table, page, paragraphs, picture, table
from prorank_jax.probe import ProbeResult
from prorank_jax.report import before_after_rows
from prorank_jax.run_diagnosis import conclusion, diagnose, remarks
from prorank_jax.run_facts import RunFacts

PAGE_FILE = "report.html"


def _findings(findings: Mapping[str, str]) -> str:
    if not findings:
        return ""
    items = (f"<li><b>{escape(kind)}</b>: {escape(sentence)}.</li>" for kind, sentence in findings.items())
    return f"<h2>What to look at</h2><ul>{''.join(items)}</ul>"


def _probes(probes: Sequence[ProbeResult]) -> str:
    headings, rows = before_after_rows(probes)
    return f"<h2>Held-out probe, {probes[0].examples} prompts</h2>{table(['', *headings], rows)}"


def _data(facts: RunFacts) -> dict[str, object]:
    data = facts.data
    return {
        "training queries": data.queries,
        "training pairs": data.examples,
        "relevant pairs": data.relevant,
        "pairs that fill data.max_length": data.cut,
    }


def render_run_page(
    facts: RunFacts, told: Mapping[str, Any], config: Mapping[str, Any], png: bytes | None
) -> str:
    """The whole page as HTML.

    Args:
        facts: what the diagnosis is made of.
        told: facts of the run for a table; lists and tables among them are left out.
        config: dotted field → value.
        png: the picture of the run.
    """
    findings = diagnose(facts)
    plain = {name: value for name, value in told.items() if not isinstance(value, (list, dict))}
    parts = [
        paragraphs([conclusion(facts, findings)]),
        _findings(findings),
        paragraphs(remarks(facts)),
        _probes(facts.probes),
        picture(png, "In training, held out, and the scores before and after"),
        "<h2>Facts</h2>",
        facts_table(_data(facts) | plain),
        "<h2>Config</h2>",
        facts_table(config),
    ]
    return page(f"Training run: stage {facts.stage} of {config['model.source']}", parts)
