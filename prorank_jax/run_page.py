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
# What the page calls the facts of report.json, with their units.
_TITLES = {
    "measured_steps": "steps that speeds are measured on",
    "median_prompts_per_second": "prompts a second (median of these steps)",
    "median_model_tflops": "model TFLOP/s (median of these steps)",
    "skipped_updates": "skipped updates",
    "matmul_tflops": "TFLOP/s of large matrix products here",
    "share_of_matmul_peak": "the model's share of these",
    "peak_memory_gib": "most memory taken (GiB)",
    "peak_memory_of": "memory of",
    "prorank_jax": "version of prorank-jax",
    "jax": "version of jax",
}


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


def _titled(told: Mapping[str, Any]) -> dict[str, object]:
    """What is one value and not said elsewhere on the page, under its title."""
    return {
        _TITLES.get(name, name): value
        for name, value in told.items()
        if name != "conclusion" and value is not None and not isinstance(value, (list, dict))
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
    parts = [
        paragraphs([conclusion(facts, findings)]),
        _findings(findings),
        paragraphs(remarks(facts)),
        _probes(facts.probes),
        picture(png, "In training, held out, and the scores before and after"),
        "<h2>Facts</h2>",
        facts_table(_data(facts) | _titled(told)),
        "<h2>Config</h2>",
        facts_table(config),
    ]
    return page(f"Training run: stage {facts.stage} of {config['model.source']}", parts)
