"""What is worth knowing of a run's examples before it trains on them, told without a pass over them."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from prorank_jax.config import RunConfig
from prorank_jax.data import ExampleSet
from prorank_jax.pseudo_queries import PSEUDO_PREFIX
from prorank_jax.ranking_objective import small_margins, unread_scores
from prorank_jax.run_diagnosis import cut_prompts
from prorank_jax.run_facts import data_facts

MOST_CUT_UNTOLD = 0.05


def example_notices(config: RunConfig, examples: ExampleSet) -> list[str]:
    """A sentence for each thing that the examples are and their user may not know, with what changes it."""
    data = config.data
    facts = data_facts(examples.queries, examples.labels, examples.lengths, data.max_length)
    said = [_made(examples, facts.queries) if data.pseudo_queries else ""]
    said.append(cut_prompts(facts, MOST_CUT_UNTOLD, shows_key_sentences=data.excerpts == "key_sentences"))
    if config.stage == 2:
        said += [unread_scores(config, examples.scores), small_margins(config, examples.scores)]
        said.append(_borrowed_excerpts(config))
    return [sentence for sentence in said if sentence]


def _borrowed_excerpts(config: RunConfig) -> str:
    """A document is borrowed as it was rendered: its text is not there when a batch is made."""
    if config.data.excerpts != "key_sentences" or not config.ranking.in_batch_negatives:
        return ""
    return (
        "documents too long for a prompt that ranking.in_batch_negatives borrows show the sentences that "
        "match their own query, not the borrowing one, and are easier negatives for it; data.excerpts head "
        "or ranking.in_batch_negatives 0 avoids that"
    )


def _made(examples: ExampleSet, queries: int) -> str:
    made = queries - _first_made(examples)
    if not made:
        return ""
    return f"{made} of {queries} queries are made from documents; data.pseudo_queries 0 leaves them out"


def _first_made(examples: ExampleSet) -> int:
    """The number of the first query that was made from a document; they are behind all others.

    Queries are numbered in the order of the examples, so a few reads find it.
    """
    firsts = np.unique(examples.queries, return_index=True)[1]
    return bisect_left(
        firsts, True, key=lambda position: examples[position].query_id.startswith(PSEUDO_PREFIX)
    )
