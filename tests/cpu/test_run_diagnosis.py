"""Each diagnosis of a finished run: told where it holds, not told just beside it, none for a healthy run."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from prorank_jax.learning_signs import TIED_STEPS, Goals
from prorank_jax.probe import ProbeResult
from prorank_jax.run_diagnosis import (
    LEAST_FORMAT,
    LEAST_QUERIES,
    LEAST_RELEVANT,
    conclusion,
    diagnose,
    remarks,
)
from prorank_jax.run_facts import DataFacts, RunFacts, data_facts, skipped_updates

STEPS = 60
DATA = DataFacts(queries=300, examples=1200, relevant=500, cut=30)


def probe(step: int, **changes: float) -> ProbeResult:
    values = {"format_rate": 1.0, "accuracy": 0.75, "auc": 0.8, "relevant_share": 0.5} | changes
    return ProbeResult(step=step, scores=[], labels=[], **({"examples": 128} | values))


BEFORE = probe(0, format_rate=0.0, accuracy=0.0, auc=0.5, relevant_share=0.0)


def steps(name: str, values, grad_norm: float = 5.0, **more):
    return [
        {"step": step, name: value, "grad_norm": grad_norm, "skipped": 0.0, "tied_groups": 0.1} | more
        for step, value in enumerate(values, start=1)
    ]


def noisy(start: float, end: float, deviation: float = 0.05) -> list[float]:
    noise = np.random.default_rng(0).normal(0, deviation, STEPS)
    return list(np.linspace(start, end, STEPS) + noise - noise.mean())


# Every gradient is clipped, as in many healthy runs.
WARMUP = RunFacts(
    1,
    steps("reward", noisy(0.3, 0.9)),
    [BEFORE, probe(STEPS)],
    Goals("reward", 1.5, ("accuracy",)),
    1.0,
    DATA,
)
RANKING = RunFacts(
    2,
    [record | {"ndcg": 0.9} for record in steps("loss", noisy(2.0, 1.5))],
    [probe(0), probe(STEPS, auc=0.9)],
    Goals("ndcg", 1.0, ("query_auc", "auc")),
    1.0,
    DATA,
)


def changed(facts: RunFacts, **changes) -> RunFacts:
    return dataclasses.replace(facts, **changes)


def after(facts: RunFacts, **changes: float) -> RunFacts:
    return changed(facts, probes=[facts.probes[0], probe(STEPS, **changes)])


@pytest.mark.parametrize("facts", [WARMUP, RANKING])
def test_a_healthy_run_has_no_finding_and_finished_well(facts):
    assert diagnose(facts) == {}
    assert remarks(facts) == []
    said = conclusion(facts, {})
    assert said.startswith("Finished well: held-out AUC")
    assert ("--init" in said) == (facts.stage == 1)


@pytest.mark.parametrize("probes", [[probe(STEPS)], [probe(10, auc=0.5), probe(STEPS)]])
def test_nothing_is_said_of_before_where_that_probe_was_lost(probes):
    said = conclusion(changed(WARMUP, probes=probes), {})
    assert said.startswith("Finished: held-out AUC 0.800, accuracy 0.750 after (128 prompts); those before")


@pytest.mark.parametrize(("entropy", "undecided"), [(0.67, True), (0.51, True), (0.49, False), (0.0, False)])
def test_one_greedy_answer_is_a_collapse_only_where_the_sampled_ones_are_one_too(entropy, undecided):
    told = [{**record, "answer_entropy": entropy} for record in WARMUP.metrics]
    earlier = [{**record, "answer_entropy": 0.69 - entropy} for record in told[:-10]]
    facts = changed(after(WARMUP, relevant_share=0.0), metrics=[*earlier, *told[-10:]])
    sentence = diagnose(facts)["one answer"]
    assert ("the policy collapsed" in sentence) == ("entropy_coefficient" in sentence) != undecided
    assert (f"answer entropy {entropy:.2f}, of at most 0.69" in sentence) == undecided
    assert "train for more steps" in sentence


@pytest.mark.parametrize(
    ("facts", "kind", "remedy"),
    [
        (after(WARMUP, relevant_share=1.0), "one answer", "answers '1' to 100%"),
        (after(WARMUP, relevant_share=0.015), "one answer", "answers '0' to 98%.*grpo.entropy_coefficient"),
        (after(WARMUP, format_rate=LEAST_FORMAT - 0.01), "format", "89%.*more steps.*grpo.forced_ends"),
        (
            changed(WARMUP, data=dataclasses.replace(DATA, queries=LEAST_QUERIES - 1)),
            "few examples",
            "49 queries with 500 relevant",
        ),
        (
            changed(RANKING, data=dataclasses.replace(DATA, relevant=LEAST_RELEVANT - 1)),
            "few examples",
            "data.relevant_grade",
        ),
        (
            changed(RANKING, metrics=steps("loss", noisy(1.5, 1.8))),
            "learning rate",
            "loss went from .* 100% of the gradients were clipped.*optimizer.learning_rate",
        ),
        (
            changed(WARMUP, metrics=steps("reward", noisy(0.9, 0.4), grad_norm=0.5)),
            "learning rate",
            r"reward went from .*last quarter\): the rate is too high",
        ),
        (
            changed(RANKING, metrics=[*RANKING.metrics, {"step": 61, "skipped": 2.0}]),
            "skipped updates",
            "^2 ",
        ),
        (after(RANKING, auc=1.0, examples=4), "chance", "probe's 4 prompts are too few to tell any AUC"),
        (after(RANKING, auc=0.58), "chance", "0.580 cannot be told from chance with 128 prompts.*0.584"),
        (
            changed(WARMUP, metrics=steps("reward", noisy(0.3, 0.9), tied_groups=1.0)),
            "tied groups",
            "no gradient",
        ),
        (
            changed(WARMUP, probes=[BEFORE, probe(30, accuracy=0.9), probe(STEPS, accuracy=0.6)]),
            "held-out",
            "fell from 0.900",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(facts, kind, remedy):
    found = diagnose(facts)
    assert list(found) == [kind]
    assert re.search(remedy, found[kind]), found[kind]
    assert conclusion(facts, found).startswith(f"This run needs a look ({kind}): ")


@pytest.mark.parametrize(
    "facts",
    [
        after(WARMUP, relevant_share=0.97),
        after(WARMUP, relevant_share=0.03),
        after(RANKING, relevant_share=1.0),  # one answer does no harm to scores
        after(WARMUP, format_rate=LEAST_FORMAT),
        after(RANKING, format_rate=0.2),
        changed(WARMUP, data=DataFacts(LEAST_QUERIES, 200, LEAST_RELEVANT, 0)),
        changed(RANKING, metrics=steps("loss", noisy(1.5, 1.5))),
        changed(RANKING, metrics=steps("loss", noisy(1.5, 1.53))),  # within the noise
        changed(RANKING, metrics=steps("loss", [1.0] * 16 + [2.0] * 15)),  # too short to say
        after(RANKING, auc=0.59),
        changed(WARMUP, metrics=steps("reward", noisy(0.3, 0.9)[: TIED_STEPS - 1], tied_groups=1.0)),
        changed(WARMUP, probes=[BEFORE, probe(30, accuracy=0.8), probe(STEPS, accuracy=0.75)]),
        changed(RANKING, metrics=steps("loss", [None] * STEPS, skipped=None)),
        changed(RANKING, metrics=[]),
    ],
)
def test_what_is_nearly_wrong_is_not_told(facts):
    assert diagnose(facts) == {}


def test_a_learned_task_is_remarked_on_and_finished_well():
    right = {"tied_groups": 1.0, "accuracy": 1.0, "format_rate": 1.0, "reward": 1.5}
    facts = changed(WARMUP, metrics=[record | right for record in WARMUP.metrics])
    assert diagnose(facts) == {}
    said = remarks(facts)[0]
    assert said.startswith(f"All sampled answers were right for {TIED_STEPS} steps up to step {TIED_STEPS}: ")
    assert conclusion(facts, {}).startswith("Finished well")
    wrong = {"accuracy": 0.5, "reward": 1.0}
    later = [record | wrong if record["step"] > 30 else record for record in facts.metrics]
    assert set(diagnose(changed(facts, metrics=later))) == {"tied groups", "learning rate"}
    assert remarks(changed(facts, metrics=later)) == []


def test_a_task_is_learned_as_far_as_the_entropy_term_lets_it_be():
    right = {"accuracy": 0.84, "format_rate": 1.0}
    facts = changed(WARMUP, metrics=[record | right for record in WARMUP.metrics])
    assert remarks(facts) == []
    allowed = changed(facts, goals=dataclasses.replace(WARMUP.goals, greatest_accuracy=0.8425))
    (said,) = remarks(allowed)
    assert said.startswith(
        "About 84% of the sampled answers, as many as grpo.entropy_coefficient allows, were"
    )


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        (
            (1.0, 0.3),
            "100% of them were at step 0, which was lost by step 60; .* a lower optimizer.learning_rate$",
        ),
        ((0.1, 0.95, 1.0, 0.5, 0.3), "100% of them were at step 30, .* by step 45; .* RUN@30 is the"),
        ((1.0, 0.1, 0.9, 0.3), "90% of them were at step 40, .* lost by step 60; .* RUN@40"),
        ((0.0, 0.89, 0.3), "; train for more steps, or raise optimizer.learning_rate"),
    ],
)
def test_a_format_that_was_lost_is_told_from_one_that_never_came(rates, said):
    """What lost it is not to be raised."""
    every = STEPS // (len(rates) - 1)
    probes = [probe(every * place, format_rate=rate) for place, rate in enumerate(rates)]
    found = diagnose(changed(WARMUP, probes=probes))
    assert list(found) == ["format"]
    assert re.search(said, found["format"]), found["format"]
    assert ("raise" in found["format"]) == (max(rates) < LEAST_FORMAT)


def test_skipped_updates_are_counted_one_by_one():
    """A record has the share of the step's updates."""
    partly = [{"step": step, "skipped": share} for step, share in ((1, 0.25), (2, 0.0), (3, 0.5))]
    facts = changed(RANKING, metrics=partly, updates_per_step=4)
    assert skipped_updates(facts) == 3
    assert diagnose(facts)["skipped updates"] == (
        "3 updates were skipped because the loss or the gradient was not finite; lower "
        "optimizer.learning_rate, or set model.compute_dtype to float32"
    )
    already = changed(facts, computes_in_float32=True)
    assert diagnose(already)["skipped updates"].endswith("; lower optimizer.learning_rate")


@pytest.mark.parametrize(
    ("step", "computes_in_float32", "remedy"),
    [
        (
            STEPS,
            False,
            "after step 60 .*lower optimizer.learning_rate, or set model.compute_dtype to float32$",
        ),
        (STEPS, True, "after step 60 .*lower optimizer.learning_rate$"),
        (0, False, "after step 0 .*before any training.*set model.compute_dtype to float32$"),
        (0, True, "after step 0 .*before any training.*model.source"),
    ],
)
def test_scores_that_are_not_finite_are_told_once(step, computes_in_float32, remedy):
    spoilt = dataclasses.replace(probe(STEPS, auc=math.nan), scores=[0.5, math.nan, math.inf])
    first = RANKING.probes[0] if step else dataclasses.replace(spoilt, step=0)
    facts = changed(RANKING, probes=[first, spoilt], computes_in_float32=computes_in_float32)
    found = diagnose(facts)
    assert list(found) == ["scores"]  # nor is such an AUC called chance
    assert re.search("^2 of 128 held-out scores " + remedy, found["scores"]), found["scores"]
    assert conclusion(facts, found).startswith("This run needs a look (scores): ")


def test_a_policy_without_format_is_not_called_one_sided_too():
    for rate in (0.1, 0.6):  # whatever is no answer does not say `1` either
        assert list(diagnose(after(WARMUP, format_rate=rate, relevant_share=0.0))) == ["format"]


def test_remarks_are_no_findings():
    cut = changed(WARMUP, data=dataclasses.replace(DATA, cut=300))
    assert diagnose(cut) == {}
    assert "25% of the prompts fill data.max_length" in remarks(cut)[0]
    assert remarks(changed(WARMUP, data=dataclasses.replace(DATA, cut=240))) == []
    forgot = after(RANKING, format_rate=0.1)
    assert "fell from 1.00 to 0.10" in remarks(forgot)[0]
    drifted = after(RANKING, auc=0.75)
    assert diagnose(drifted) == {}
    assert "fell from 0.800 to 0.750" in remarks(drifted)[0]
    assert "the AUC did not rise" in conclusion(drifted, {})
    assert remarks(after(WARMUP, auc=0.7)) == []
    never = changed(RANKING, probes=[BEFORE, probe(STEPS, format_rate=0.1)])
    assert remarks(never) == []


def test_nothing_is_advised_that_the_run_does_already():
    assert "add pointwise" not in remarks(after(RANKING, auc=0.75))[0]
    cut = changed(WARMUP, data=dataclasses.replace(DATA, cut=300))
    assert "key_sentences" in remarks(cut)[0]
    assert "key_sentences" not in remarks(changed(cut, shows_key_sentences=True))[0]
    forgot = after(RANKING, format_rate=0.1)
    assert "give a ranking.format_coefficient (0.1) or" in remarks(forgot)[0]
    assert "give a higher ranking.format_coefficient or" in remarks(changed(forgot, holds_format=True))[0]


def test_the_examples_are_counted():
    queries, labels = np.array([0, 0, 2, 2, 2]), np.array([1, 0, 0, 1, 1])
    assert data_facts(queries, labels, np.array([9, 10, 8, 10, 7]), 10) == DataFacts(2, 5, 3, 2)
