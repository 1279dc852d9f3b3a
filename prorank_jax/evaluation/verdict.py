"""An evaluation in words: what the numbers of a dataset say, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prorank_jax.evaluation.first_stage import BM25
from prorank_jax.evaluation.metrics import MAIN_METRIC
from prorank_jax.evaluation.tables import MAIN_HEADING, format_interval, format_p

SIGNIFICANT = 0.05
# Rules of thumb, ours: below these, the sentence about it is worth reading.
FEW_QUERIES = 50
LOW_RECALL = 0.9
LITTLE_ROOM = 0.02

Entry = Mapping[str, Any]


def verdict(entry: Entry, top_k: int) -> list[str]:
    """Sentences about the entry of a dataset in metrics.json, the main one first of what it shows.

    Args:
        entry: as `summary.summarize` makes it; `first_stage_name`, `sampled_from`, `absent_documents` and
            `trained_on` may be missing.
        top_k: documents reranked for each query.
    """
    if not entry["pairs"]:
        return ["Nothing was reranked: the first stage found no document for any query; check its run."]
    first = "BM25" if entry.get("first_stage_name", BM25) == BM25 else "the first stage"
    sentences = [
        _trained_on(entry),
        _gain(entry, first),
        _ceiling(entry, first, top_k),
        _recall(entry, top_k),
        _absent(entry),
        _few(entry),
        _fused(entry, first),
        _compared(entry),
    ]
    return [sentence for sentence in sentences if sentence]


def _facts(comparison: Mapping[str, Any]) -> str:
    interval, p_value = format_interval(comparison["interval"]), format_p(comparison["p_value"])
    return f"{comparison['delta']:+.3f} {MAIN_HEADING}, 95% interval {interval}, p {p_value}"


def _is_significant(comparison: Mapping[str, Any]) -> bool:
    return bool(comparison["p_value"] < SIGNIFICANT)


def _trained_on(entry: Entry) -> str:
    if not entry.get("trained_on"):
        return ""
    return (
        "The model was trained on this very split: these figures say nothing of queries that it does not "
        "know; measure on a split that it was not trained on."
    )


def _gain(entry: Entry, first: str) -> str:
    facts = f"{_facts(entry)}, {entry['queries']} queries"
    if not _is_significant(entry):
        remedy = (
            ""
            if "fusion" in entry
            else ", or fuse it with the first stage (--fusion weighted, with --fusion_tune on a split that "
            "the model was not trained on)"
        )
        more = "measure on all queries (leave out --queries), " if entry.get("sampled_from") else ""
        return (
            f"No significant difference to {first} ({facts}). To find out more, {more}"
            f"train on more queries or for longer{remedy}."
        )
    if entry["delta"] > 0:
        return f"A significant gain over {first} ({facts})."
    return (
        f"Significantly worse than {first} ({facts}). A model that was not trained for this ranks nearly at "
        "random; if this one was, check that --system, --instruction and --max_length are those of its "
        "training, and train on data like this, for longer, or with stage 2."
    )


def _deeper(entry: Entry, top_k: int) -> str:
    """The advice to rerank more, where the first stage has more."""
    return "raise --top_k, or " if entry["ceiling"].get("deepest", top_k + 1) > top_k else ""


def _ceiling(entry: Entry, first: str, top_k: int) -> str:
    if "ceiling" not in entry:
        return ""
    before, after = entry["first_stage"][MAIN_METRIC], entry["reranked"][MAIN_METRIC]
    best = entry["ceiling"][MAIN_METRIC]
    reached = f"{first} {before:.3f}, the model {after:.3f}"
    bound = f"A perfect reranker of these candidates would reach {best:.3f} ({reached})"
    if best - before < LITTLE_ROOM:
        return f"{bound}: there is little left to gain; {_deeper(entry, top_k)}measure on harder queries."
    share = (after - before) / (best - before)
    return f"{bound}: the model goes {share:.0%} of that way." if share > 0 else f"{bound}."


def _recall(entry: Entry, top_k: int) -> str:
    held = entry.get("ceiling")
    if held is None or held["recall"] >= LOW_RECALL:
        return ""
    without = f" (none for {held['queries_without']} of the queries)" if held["queries_without"] else ""
    return (
        f"Of a query's relevant documents, {held['recall']:.0%} are among the best {top_k} of the first stage"
        f"{without}. No reranker can bring back the others: {_deeper(entry, top_k)}take a better "
        "--first_stage."
    )


def _absent(entry: Entry) -> str:
    count = entry.get("absent_documents", 0)
    return f"{count} relevant documents are not in the collection: they count as not found." if count else ""


def _few(entry: Entry) -> str:
    if entry["queries"] >= FEW_QUERIES:
        return ""
    low, high = entry["interval"]
    if 2.0 ** (1 - entry["queries"]) >= SIGNIFICANT:  # the least p-value that flips of sign can give
        return (
            f"{entry['queries']} queries are too few for any difference to be significant; measure on more."
        )
    return (
        f"{entry['queries']} queries are few: a difference must be about {(high - low) / 2:.3f} to show; "
        "measure on more."
    )


def _compared(entry: Entry) -> str:
    other = entry.get("compared")
    if other is None:
        return ""
    lacking = other.get("queries_lacking")
    count = f" It lacks {lacking} of the {entry['queries']} queries, which count as 0 for it."
    return f"Against {other['run']}: {_facts(other)}.{count if lacking else ''}"


def _fused(entry: Entry, first: str) -> str:
    fusion = entry.get("fusion")
    if fusion is None:
        return ""
    over = fusion["over_reranked"]
    if not _is_significant(over):
        change = "no significant difference to the model alone"
    else:
        change = (
            "a significant gain over the model alone" if over["delta"] > 0 else "worse than the model alone"
        )
    tuned = fusion["tuned_on"]
    source = f", tuned on {tuned['queries']} queries of {tuned['dataset']}" if tuned else ""
    if tuned and tuned.get("trained_on"):
        source += ", on which the model was trained, so that the weight trusts it too much"
    reached = f"{fusion['metrics'][MAIN_METRIC]:.3f}, {change} ({_facts(over)})"
    against = f"Against {first}: {_facts(fusion['over_first_stage'])}"
    return f"Fused with the first stage ({fusion['label']}{source}): {reached}. {against}."
