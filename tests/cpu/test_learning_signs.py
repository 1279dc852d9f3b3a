"""Warnings come where a run goes wrong, once, and not where it goes well or is only noisy."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.auc import deviation_at_chance
from prorank_jax.learning_signs import TIED_STEPS, Goals, learned_at, signs_of_trouble
from prorank_jax.probe import ProbeResult

GOALS = Goals("reward", 1.5, ("accuracy",))
RANKING = Goals("ndcg", 1.0, ("query_auc", "auc"))


def probe(step: int, accuracy: float, examples: int = 128) -> ProbeResult:
    return ProbeResult(step, examples, 1.0, accuracy, accuracy, 0.5, [], [])


def history(rewards: list[float], tied: float = 0.0) -> list[dict[str, float]]:
    return [
        {"step": step, "reward": reward, "tied_groups": tied} for step, reward in enumerate(rewards, start=1)
    ]


def signs(metrics, probes):
    return signs_of_trouble(metrics, probes, GOALS)


def test_a_run_that_learns_is_not_warned_of():
    rising = [0.2 + 0.01 * step for step in range(40)]
    assert signs(history(rising), [probe(0, 0.5), probe(20, 0.6), probe(40, 0.8)]) == {}


def test_reward_that_rises_while_held_out_accuracy_falls():
    rising = [0.2 + 0.01 * step for step in range(60)]
    found = signs(history(rising), [probe(0, 0.5), probe(20, 0.8), probe(40, 0.5), probe(60, 0.4)])
    assert list(found) == ["held-out"]
    assert "fell from 0.800 (step 20) to 0.500 (step 40)" in found["held-out"]
    assert "optimizer.learning_rate" in found["held-out"]


def test_both_falling_is_another_trouble():
    falling = [0.8 - 0.01 * step for step in range(40)]
    assert signs(history(falling), [probe(0, 0.8), probe(40, 0.4)]) == {}


def test_no_field_of_the_probe_has_to_rise_where_none_is_named():
    rising = history([0.2 + 0.01 * step for step in range(60)])
    nothing = dataclasses.replace(GOALS, held_out=())
    assert signs_of_trouble(rising, [probe(0, 0.9), probe(40, 0.1)], nothing) == {}


def test_probes_without_a_number_are_passed_over():
    rising = history([0.2 + 0.01 * step for step in range(60)])
    nothing = math.nan
    assert signs(rising, [probe(0, 0.9), probe(20, nothing)]) == {}
    assert signs(rising, [probe(0, nothing), probe(20, 0.1)]) == {}
    found = signs(rising, [probe(0, 0.5), probe(10, nothing), probe(20, 0.8), probe(40, 0.5)])
    assert "fell from 0.800 (step 20) to 0.500 (step 40)" in found["held-out"]


@given(st.integers(2, 512), st.floats(0.3, 0.9))
def test_a_fall_within_the_noise_of_a_probe_is_none(examples, best):
    fall = 1.9 * math.sqrt(0.5 / examples)
    rising = [0.2 + 0.01 * step for step in range(40)]
    assert signs(history(rising), [probe(20, best, examples), probe(40, best - fall, examples)]) == {}


@pytest.mark.parametrize("steps", [TIED_STEPS - 1, TIED_STEPS])
def test_groups_that_tie_for_long(steps):
    metrics = history([0.5] * steps, tied=1.0)
    found = signs(metrics, [])
    assert list(found) == (["tied groups"] if steps == TIED_STEPS else [])
    if found:
        assert f"up to step {TIED_STEPS}" in found["tied groups"]
        broken = [*metrics[:10], {"step": 11, "reward": 0.5, "tied_groups": 0.9}, *metrics[11:]]
        assert signs(broken, []) == {}


def tied_with(steps: int, accuracy: float, format_rate: float) -> list[dict[str, float]]:
    """Of answers that all start with a digit, rewarded by the default weights."""
    shares = {"accuracy": accuracy, "format_rate": format_rate}
    reward = 0.25 * (1 + format_rate) + accuracy
    return [record | shares for record in history([reward] * steps, tied=1.0)]


def test_groups_that_tie_because_nothing_is_answered_are_no_collapse():
    nothing = [record | {"reward": 0.0} for record in tied_with(TIED_STEPS, 0.0, 0.0)]
    assert "no sampled answer was 0 or 1" in signs(nothing, [])["tied groups"]
    wrong = [record | {"accuracy": 0.0, "format_rate": 1.0} for record in nothing]
    assert "collapsed" in signs(wrong, [])["tied groups"]


def test_groups_that_tie_because_all_answers_are_right_are_no_trouble():
    perfect = tied_with(3 * TIED_STEPS, 1.0, 1.0)
    assert signs(perfect, []) == {}
    assert learned_at(perfect, GOALS) == TIED_STEPS
    assert learned_at(perfect[: TIED_STEPS - 1], GOALS) is None
    for accuracy, format_rate in ((0.5, 1.0), (1.0, 0.0), (0.97, 1.0)):
        other = tied_with(TIED_STEPS, accuracy, format_rate)
        assert list(signs(other, [])) == ["tied groups"]
        assert learned_at(other, GOALS) is None


def test_a_perfect_policy_that_collapses_later_is_told():
    records = tied_with(TIED_STEPS, 1.0, 1.0) + tied_with(TIED_STEPS, 0.5, 1.0)
    metrics = [record | {"step": step} for step, record in enumerate(records, start=1)]
    assert signs(metrics[:TIED_STEPS], []) == {}
    assert list(signs(metrics, [])) == ["tied groups"]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_a_longer_history_never_changes_what_was_said(accuracies, rewards):
    metrics = history(rewards)
    probes = [probe(5 * index, accuracy) for index, accuracy in enumerate(accuracies)]
    before = signs(metrics[: probes[-2].step], probes[:-1])
    after = signs(metrics, probes)
    assert before.items() <= after.items()


def test_a_stage_without_groups_and_a_metric_that_was_not_finite():
    metrics = [{"step": step, "reward": None} for step in range(1, 30)]
    assert signs(metrics, [probe(0, 0.9), probe(29, 0.1)]) == {}


@pytest.mark.parametrize(("errors", "is_told"), [(2.1, True), (1.9, False)])
def test_a_fall_is_told_from_two_standard_errors_on(errors, is_told):
    metrics = [{"step": step, "reward": 0.2 + 0.01 * step} for step in range(1, 41)]
    fall = errors * math.sqrt(0.5 / 128)
    probes = [probe(20, 0.8), probe(40, 0.8 - fall)]
    assert bool(signs(metrics, probes)) == is_told


@pytest.mark.parametrize(
    ("weights", "accuracy", "format_rate", "is_full"),
    [
        ((0.5, 1.0), 1.0, 1.0, True),
        ((0.5, 0.0), 0.5, 1.0, True),  # rewarded for the format alone
        ((0.0, 1.0), 1.0, 0.0, True),  # rewarded for the right digit alone
        ((0.5, 0.0), 0.5, 0.0, False),
        ((0.0, 1.0), 0.5, 0.0, False),
        ((0.5, 1.0), 0.5, 1.0, False),
    ],
)
def test_groups_that_tie_at_the_full_reward_are_no_trouble(weights, accuracy, format_rate, is_full):
    for_format, for_right = weights
    reward = for_format * 0.5 * (1 + format_rate) + for_right * accuracy
    shares = {"accuracy": accuracy, "format_rate": format_rate}
    metrics = [record | shares for record in history([reward] * TIED_STEPS, tied=1.0)]
    goals = Goals("reward", for_format + for_right, ("accuracy",))
    found = signs_of_trouble(metrics, [], goals)
    assert list(found) == ([] if is_full else ["tied groups"])
    if found:
        assert "collapsed" in found["tied groups"]


def test_right_answers_that_never_end_are_told_to_try_ends():
    found = signs(tied_with(TIED_STEPS, 1.0, 0.0), [])["tied groups"]
    assert "none ended its turn after the digit" in found
    assert "grpo.forced_ends 1" in found
    assert "collapsed" not in found
    assert "collapsed" in signs(tied_with(TIED_STEPS, 0.5, 0.0), [])["tied groups"]


@pytest.mark.parametrize(("share", "is_learned"), [(1.0, True), (0.985, True), (0.95, False)])
def test_as_many_right_answers_as_the_entropy_term_allows_are_a_learned_task(share, is_learned):
    """Groups hardly ever tie then."""
    allowed = dataclasses.replace(GOALS, greatest_accuracy=0.84)
    right = {"accuracy": 0.5 + share * 0.34, "format_rate": 1.0}
    metrics = [record | right for record in history([1.3] * (TIED_STEPS + 1), tied=0.06)]
    assert learned_at(metrics, allowed) == (TIED_STEPS if is_learned else None)
    assert learned_at(metrics, GOALS) is None
    unformatted = [record | {"format_rate": 0.9} for record in metrics]
    assert learned_at(unformatted, allowed) is None


def test_where_hardly_more_than_guesses_can_be_right_nothing_is_called_learned():
    guesses = [record | {"accuracy": 0.5, "format_rate": 1.0} for record in history([1.0] * 30)]
    assert learned_at(guesses, dataclasses.replace(GOALS, greatest_accuracy=0.5)) is None


def ranked(step: int, query_aucs: list[float], auc: float = 0.8, examples: int = 128) -> ProbeResult:
    return ProbeResult(step, examples, 1.0, 0.5, auc, 0.5, [], [], query_aucs)


def lists_that_improve(steps: int = 60) -> list[dict[str, float]]:
    return [{"step": step, "ndcg": 0.5 + step / 200} for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("fallen", "risen", "is_told"),
    [(5, 0, True), (4, 0, False), (9, 1, True), (8, 1, True), (7, 1, True), (6, 1, False), (1, 0, False)],
)
def test_an_order_within_queries_that_falls_is_told_by_its_paired_differences(fallen, risen, is_told):
    """By McNemar's statistic, (fallen - risen)² / (fallen + risen) > 2², where each query is a pair."""
    assert is_told == ((fallen - risen) ** 2 > 4 * (fallen + risen))
    same = 60 - fallen - risen
    before = [1.0] * fallen + [0.0] * risen + [1.0] * same
    after = [0.0] * fallen + [1.0] * risen + [1.0] * same
    found = signs_of_trouble(lists_that_improve(), [ranked(0, before), ranked(60, after)], RANKING)
    assert list(found) == (["held-out"] if is_told else [])
    if found:
        assert "held-out AUC within queries fell from" in found["held-out"]
        falling = [record | {"ndcg": -record["ndcg"]} for record in lists_that_improve()]
        assert signs_of_trouble(falling, [ranked(0, before), ranked(60, after)], RANKING) == {}


def test_an_order_that_an_earlier_version_did_not_measure_has_not_fallen():
    for unknown in ([], [math.nan] * 60, [1.0] * 59):
        for probes in (
            [ranked(0, unknown), ranked(60, [0.0] * 60)],
            [ranked(0, [1.0] * 60), ranked(60, unknown)],
        ):
            assert signs_of_trouble(lists_that_improve(), probes, RANKING) == {}


@pytest.mark.parametrize("examples", [8, 128])
@pytest.mark.parametrize(("errors", "is_told"), [(2.1, True), (1.9, False)])
def test_the_noise_of_an_auc_is_that_of_the_mann_whitney_statistic(examples, errors, is_told):
    fall = errors * math.sqrt(2) * deviation_at_chance(examples // 2, examples // 2)
    probes = [ranked(0, [], 0.5 + fall, examples), ranked(60, [], 0.5, examples)]
    assert bool(signs_of_trouble(lists_that_improve(), probes, RANKING)) == is_told


@pytest.mark.parametrize(("earlier", "errors"), [(1, 2.0), (2, 2.2776), (5, 2.6076), (10, 2.8356)])
def test_the_best_of_several_probes_has_to_be_left_farther_behind(earlier, errors):
    """A fall by chance below one of them is as rare as below a single one: normal quantiles of 0.0228 / n."""
    metrics = [{"step": step, "reward": 0.2 + 0.01 * step} for step in range(1, 41)]
    for share, is_told in ((1.01, True), (0.99, False)):
        fall = share * errors * math.sqrt(0.5 / 128)
        probes = [probe(step, 0.8) for step in range(earlier)] + [probe(40, 0.8 - fall)]
        assert bool(signs(metrics, probes)) == is_told
