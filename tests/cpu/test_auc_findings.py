"""What the AUCs of a run say: that over all queries is no verdict where only the order within is learned."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from prorank_jax.probe import ProbeResult
from prorank_jax.run_diagnosis import conclusion, diagnose, remarks
from prorank_jax.run_facts import RunFacts
from tests.cpu.test_run_diagnosis import RANKING, STEPS, after, changed, noisy, probe, steps

LISTS_ONLY = dataclasses.replace(RANKING.goals, held_out=("query_auc",))


def test_an_auc_over_all_queries_may_fall_where_only_lists_are_learned():
    rising = [record | {"ndcg": 0.5 + record["step"] / 200} for record in RANKING.metrics]
    drifted = changed(after(RANKING, auc=0.62), metrics=rising)
    assert list(diagnose(drifted)) == ["held-out"]
    lists_only = changed(drifted, goals=LISTS_ONLY)
    assert diagnose(lists_only) == {}
    assert "add pointwise to ranking.losses" in remarks(lists_only)[0]


def test_an_auc_at_chance_is_no_verdict_where_the_losses_leave_levels_free_and_ndcg_rose():
    rising = [record | {"ndcg": ndcg} for record, ndcg in zip(RANKING.metrics, noisy(0.7, 0.9), strict=True)]
    level = changed(after(RANKING, auc=0.55), probes=[probe(0, auc=0.54), probe(STEPS, auc=0.55)])
    assert list(diagnose(changed(level, metrics=rising))) == ["chance"]  # here the level is learned too
    lists_only = changed(level, goals=LISTS_ONLY, metrics=rising)
    assert diagnose(lists_only) == {}
    (said,) = remarks(lists_only)
    assert said.startswith(
        "The held-out AUC of 0.550 cannot be told from chance with 128 prompts, while ndcg"
    )
    assert "over the prompts of all queries" in said
    assert "launch/evaluate.py" in said
    (said,) = remarks(changed(lists_only, probes=[probe(0, auc=0.6), probe(STEPS, auc=0.55)]))
    assert said.startswith("The held-out AUC fell from 0.600 to 0.550 and cannot be told from chance")


@pytest.mark.parametrize(
    "ndcg", [noisy(0.8, 0.8), noisy(0.9, 0.7), noisy(0.7, 0.9)[:20], [None] * STEPS, [0.8] * STEPS]
)
def test_an_auc_at_chance_is_told_as_what_it_is_where_ndcg_did_not_rise(ndcg):
    facts = changed(after(RANKING, auc=0.55), goals=LISTS_ONLY, metrics=steps("ndcg", ndcg))
    found = diagnose(facts)
    assert list(found) == ["chance"]
    assert "(over the prompts of all queries, whose levels the losses leave free; but ndcg" in found["chance"]


def ordered(step: int, query_aucs: list[float], **values: float) -> ProbeResult:
    return dataclasses.replace(probe(step, **values), query_aucs=query_aucs)


def ranked(before: list[float], now: list[float], auc: float = 0.55) -> RunFacts:
    probes = [ordered(0, before, auc=auc), ordered(STEPS, now, auc=auc)]
    return changed(RANKING, probes=probes, goals=LISTS_ONLY)


def of_64(right: int) -> list[float]:
    return [1.0] * right + [0.0] * (64 - right)


@pytest.mark.parametrize(("right", "is_told"), [(38, True), (39, False)])
def test_an_order_within_queries_at_chance_is_told_by_its_own_test(right, is_told):
    """Whatever the AUC over all queries says: 64 fair coins show 38.6 heads or more once in 20 times."""
    for auc in (0.5, 0.9):
        found = diagnose(ranked(of_64(32), of_64(right), auc))
        assert list(found) == (["chance"] if is_told else [])
        if is_told:
            said = "AUC within queries of 0.594 cannot be told from chance with 64 queries .* more than 0.603"
            assert re.search(said, found["chance"])


@pytest.mark.parametrize("query_aucs", [[1.0], [1.0, 1.0]])
def test_few_queries_tell_no_order_from_chance(query_aucs):
    found = diagnose(ranked(query_aucs, query_aucs))
    assert f"{len(query_aucs)} queries are too few to tell any AUC within queries" in found["chance"]


def test_scores_that_are_all_equal_are_at_chance_and_those_that_are_no_numbers_are_not():
    assert list(diagnose(ranked([0.5] * 9, [0.5] * 9))) == ["chance"]
    assert diagnose(ranked([0.5] * 9, [math.nan] * 9)) == {}


def test_a_run_that_learns_lists_is_judged_by_the_order_within_queries():
    well = ranked(of_64(40), of_64(60), auc=0.7)
    assert diagnose(well) == {}
    assert conclusion(well, {}).startswith(
        "Finished well: held-out AUC within 64 queries 0.625 before, 0.938 after; accuracy 0.750 before"
    )
    assert "the AUC within 64 queries did not rise" in conclusion(ranked(of_64(60), of_64(60)), {})
    levels_too = changed(well, goals=RANKING.goals)
    assert "held-out AUC 0.700 before, 0.700 after" in conclusion(levels_too, {})
    lost = changed(well, probes=[ordered(9, of_64(40)), ordered(STEPS, of_64(60))])
    assert conclusion(lost, {}).startswith("Finished: held-out AUC within 64 queries 0.938, accuracy")
    unknown = changed(well, probes=[probe(0), ordered(STEPS, of_64(60), auc=0.9)])
    assert "held-out AUC 0.800 before, 0.900 after" in conclusion(unknown, {})


def test_an_auc_that_fell_is_said_beside_the_order_within_queries():
    fell = changed(
        ranked([], []), probes=[ordered(0, of_64(40), auc=0.8), ordered(STEPS, of_64(60), auc=0.7)]
    )
    (said,) = remarks(fell)
    assert "fell from 0.800 to 0.700. It is over the prompts of all queries; losses over lists" in said
    assert "see the AUC within queries, 0.625 before and 0.938 after. Where one threshold" in said
    (said,) = remarks(changed(fell, goals=RANKING.goals))
    assert said.endswith("all queries, and see the AUC within queries, 0.625 before and 0.938 after.")


def test_an_order_within_queries_that_falls_while_lists_are_learned_is_told():
    rising = [record | {"ndcg": 0.5 + record["step"] / 200} for record in RANKING.metrics]
    facts = changed(ranked(of_64(60), of_64(50)), metrics=rising)
    found = diagnose(facts)
    assert list(found) == ["held-out"]
    assert "held-out AUC within queries fell from 0.938 (step 0) to 0.781 (step 60)" in found["held-out"]
