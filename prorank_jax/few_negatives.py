"""Says where many of the negatives that should be hard are random ones, why, and what helps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prorank_jax.config import DataOptions
from prorank_jax.negative_choice import HardCount

# A ranking that has a smaller share of the hard negatives wanted of it is told of.
LEAST_FOUND = 0.9

_log = logging.getLogger(__name__)


def tell_of_few(
    name: str, counts: Sequence[HardCount], options: DataOptions, *, is_bm25: bool, takes_run: bool
) -> None:
    """Warns where fewer hard negatives were found than `LEAST_FOUND` of those wanted.

    Args:
        name: of what they were looked for in.
        counts: `count_hard` of each query.
        is_bm25: BM25 ranked, and no run.
        takes_run: its documents have ids, which a run can name.
    """
    wanted, found = sum(count.wanted for count in counts), sum(count.found for count in counts)
    if found >= LEAST_FOUND * wanted:
        return
    by = "BM25" if is_bm25 else "data.negatives_run"
    if _takes_too_few_ranks(counts, options):
        reason = _of_few_ranks(options)
    elif is_bm25:
        reason = _of_bm25(takes_run)
    else:
        reason = "give a deeper run, or lower data.hard_negatives"
    told = "%s: %s found %d of %d hard negatives, and the others are drawn at random: %s"
    _log.warning(told, name, by, found, wanted, reason)


def _takes_too_few_ranks(counts: Sequence[HardCount], options: DataOptions) -> bool:
    """No ranking has so many there, or most are missing from rankings that go down to the last rank."""
    if options.negative_depth - options.negatives_from + 1 < options.hard_per_query:
        return True
    missing = sum(count.wanted - count.found for count in counts)
    return 2 * sum(count.wanted - count.found for count in counts if count.is_cut) > missing


def _of_few_ranks(options: DataOptions) -> str:
    first, last = options.negatives_from, options.negative_depth
    lower = ", lower data.negatives_from" if first > 1 else ""
    return (
        f"{options.hard_per_query} are wanted for a query, and only the ranks {first} to {last} are taken; "
        f"raise data.negative_depth{lower} or lower data.hard_negatives"
    )


def _of_bm25(takes_run: bool) -> str:
    knows = "it ranks only what shares a word with the query, and knows words by the spaces between them. "
    if takes_run:
        return knows + (
            "To train on harder ones, name another retriever's run as data.negatives_run, or give a .jsonl "
            "file that brings its own (neg)"
        )
    return knows + "Give the queries harder ones of your own (neg), or lower data.hard_negatives"
