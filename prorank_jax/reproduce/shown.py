"""What the runs of an ablation were shown in training, and so what its rows gain on other documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prorank_jax.reproduce.judgements import read_judgements
from prorank_jax.reproduce.options import ReproduceOptions
from prorank_jax.reproduce.overlap import group_queries, overlap_content
from prorank_jax.reproduce.plan import Entry, Plan
from prorank_jax.reproduce.results import Measured, pool_rows
from prorank_jax.reproduce.rows import BOTH, STAGE1, TRAINED
from prorank_jax.reproduce.run_queries import documents_of_made_queries, drawn_queries
from prorank_jax.run_folder import DATA_FOLDER

EXAMPLES_GONE = (
    "which tells the documents that made queries asked for, was deleted or damaged before they were noted"
)
DRAWS_GONE = (
    "which tells the queries that data.max_queries drew, was deleted or damaged before they were noted"
)


def training_overlap(options: ReproduceOptions, plan: Plan, measured: Sequence[Measured]) -> dict[str, Any]:
    """The entry `training_overlap` of ablation.json, or in its place why it is not known.

    Where every run drew its queries, only what was drawn for any of them counts as trained on.
    """
    trained, judged = (
        read_judgements(options.split(name)) for name in (options.train_split, options.test_split)
    )
    runs = {entry: plan.run_config(entry).data for entry in _runs_of(measured)}
    draws = bool(runs) and all(data.max_queries for data in runs.values())
    made, drawn = set[str](), set[str]()
    for entry, data in runs.items():
        folder = plan.run_folder(entry)
        if data.pseudo_queries:
            asked_for = documents_of_made_queries(folder, plan.made_queries_file(entry))
            if asked_for is None:
                return {"training_overlap_unknown": f"{folder / DATA_FOLDER}, {EXAMPLES_GONE}"}
            made |= asked_for
        if draws:
            of_this_run = drawn_queries(folder, data, plan.drawn_queries_file(entry))
            if of_this_run is None:
                return {"training_overlap_unknown": f"{folder / DATA_FOLDER}, {DRAWS_GONE}"}
            drawn |= of_this_run
    if draws:
        trained = {query: grades for query, grades in trained.items() if query in drawn}
    first_stage = measured[0].first_stage
    groups = group_queries(first_stage, judged, trained, made)
    content = overlap_content(groups, pool_rows(measured), first_stage)
    return {"training_overlap": content | ({"drawn_queries": len(trained)} if draws else {})}


def _runs_of(measured: Sequence[Measured]) -> list[Entry]:
    """The runs that the measured models came out of."""
    trained = [one.entry for one in measured if one.entry.row in TRAINED]
    # Both stages begin with a run of stage 1, which need not be measured itself.
    begun = [Entry(STAGE1, entry.seed) for entry in trained if entry.row == BOTH]
    return list(dict.fromkeys([*trained, *begun]))
