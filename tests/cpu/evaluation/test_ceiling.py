"""No order of the candidates is better than the perfect one."""

from __future__ import annotations

import itertools
import random

import pytest

from prorank_jax.evaluation.ceiling import Reach, perfect_ranking, reach
from prorank_jax.evaluation.metrics import MAIN_METRIC, query_metrics


@pytest.mark.parametrize("seed", range(6))
def test_every_order_of_the_candidates_is_at_most_as_good(seed):
    rng = random.Random(seed)
    ranking = [f"d{number}" for number in range(8)]
    grades = {name: rng.choice([-1, 0, 1, 2, 3]) for name in [*rng.sample(ranking, 5), "elsewhere"]}
    grades["elsewhere"] = 1
    orders = {str(n): [*order, *ranking[5:]] for n, order in enumerate(itertools.permutations(ranking[:5]))}
    values = query_metrics(dict.fromkeys(orders, grades), orders)[MAIN_METRIC].values()
    best = perfect_ranking(ranking, grades, 5)
    assert best[5:] == ranking[5:]
    assert query_metrics({"q": grades}, {"q": best})[MAIN_METRIC]["q"] == max(values)


def test_what_nobody_judged_relevant_keeps_its_order():
    assert perfect_ranking(["a", "b", "c", "d"], {"b": -2, "c": 0, "d": 1}, 10) == ["d", "a", "b", "c"]


def test_the_reach_of_candidates():
    rankings = {"p": ["a", "b", "c"], "q": ["a", "b"], "r": []}
    qrels = {"p": {"a": 1, "c": 2, "b": 0}, "q": {"b": 1}, "r": {"a": 1}}
    assert reach(rankings, qrels, 1, 3) == Reach(0.5 / 3, 2, 3)
    assert reach(rankings, qrels, 100, 4) == Reach(2 / 3, 1, 4)
