"""What training data is drawn for a seed stays what it is, as long as its version does.

Tokenized examples are kept by a name that holds `CONTENT_VERSION`, not the code that drew them. Whoever
changes what is drawn raises it in prorank_jax/examples.py, and pins anew what follows: else a run goes on
with the old records of a folder where another folder has new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from prorank_jax.collection import Collection
from prorank_jax.config import DataOptions
from prorank_jax.embedding_jsonl import read_embedding_groups
from prorank_jax.examples import CONTENT_VERSION
from prorank_jax.negatives import make_groups
from prorank_jax.pseudo_queries import make_pseudo_groups
from prorank_jax.query_choice import QueryChoice, choose_groups, choose_queries
from prorank_jax.types import Document, RankingGroup
from tests.cpu.data_fixtures import write_jsonl

OPTIONS = DataOptions(
    relevant_grade=1, negatives_per_query=4, hard_negatives=0.75, negative_depth=12, pseudo_queries=3
)
TOPICS = ("tea cup kettle", "boat sail harbour", "horse saddle stable", "piano organ choir")


def collection() -> Collection:
    documents = {
        f"d{n}": Document(
            f"d{n}",
            f"The {TOPICS[n % 4]} has number {n}. All of it was seen in the year {1900 + n}.",
            f"On the {TOPICS[n % 4]} of place {n}",
        )
        for n in range(40)
    }
    queries = {f"q{n}": f"{TOPICS[n % 4]} question {n}" for n in range(8)}
    qrels = {f"q{n}": {f"d{n}": 2, f"d{n + 8}": 1, f"d{n + 16}": 0, f"d{n + 20}": 0} for n in range(8)}
    return Collection("made up", documents, queries, qrels)


def ids_of(groups: Sequence[RankingGroup]) -> dict[str, str]:
    return {
        group.query_id: " ".join(f"{one.document.id}:{one.grade}" for one in group.candidates)
        for group in groups
    }


def test_the_version_is_that_of_these_pins() -> None:
    assert CONTENT_VERSION == 8


@pytest.mark.parametrize(
    ("seed", "drawn"),
    [
        (0, ["d0:2 d8:1 d20:0 d16:0 d12:0 d18:0", "d1:2 d9:1 d17:0 d21:0 d37:0 d31:0"]),
        (1, ["d0:2 d8:1 d20:0 d16:0 d4:0 d6:0", "d1:2 d9:1 d17:0 d21:0 d5:0 d4:0"]),
    ],
)
def test_the_negatives_of_a_seed(seed: int, drawn: list[str]) -> None:
    """Of two queries: judged ones, one of BM25's ranking, one at random."""
    groups = ids_of(make_groups(collection(), OPTIONS, seed))
    assert [groups["q0"], groups["q1"]] == drawn


@pytest.mark.parametrize(
    ("seed", "drawn"),
    [
        (
            0,
            {
                "The boat sail harbour has number 25.": "d25:1 d17:0 d0:0 d5:0 d2:0",
                "On the boat sail harbour of place 33": "d33:1 d5:0 d9:0 d1:0 d39:0",
                "On the tea cup kettle of place 20": "d20:1 d36:0 d8:0 d2:0 d23:0",
            },
        ),
        (
            1,
            {
                "The horse saddle stable has number 14.": "d14:1 d6:0 d22:0 d2:0 d32:0",
                "On the piano organ choir of place 31": "d31:1 d11:0 d27:0 d1:0 d37:0",
                "The horse saddle stable has number 2.": "d2:1 d0:0 d18:0 d10:0 d17:0",
            },
        ),
    ],
)
def test_the_made_queries_of_a_seed(seed: int, drawn: dict[str, str]) -> None:
    groups = make_pseudo_groups(collection(), OPTIONS, seed)
    assert dict(zip([group.query for group in groups], ids_of(groups).values(), strict=True)) == drawn


@pytest.mark.parametrize(("seed", "drawn"), [(0, ["q1", "q2", "q5"]), (1, ["q1", "q3", "q5"])])
def test_the_sampled_queries_of_a_seed(seed: int, drawn: list[str]) -> None:
    assert list(choose_queries(collection(), QueryChoice(most=3), 1, seed).qrels) == drawn


@pytest.mark.parametrize(
    ("seed", "shuffled", "drawn"),
    [(0, ["02134", "12034"], ["line-3", "line-6"]), (1, ["43210", "31420"], ["line-5", "line-6"])],
)
def test_what_a_seed_draws_of_a_training_file(
    seed: int, shuffled: list[str], drawn: list[str], tmp_path: Path
) -> None:
    """The order of the negatives, of which `data.negatives_per_query` are read, and a sample of queries."""
    lines = [
        {"query": f"tea {n}", "pos": [f"yes {n}"], "neg": [f"no {n} {i}" for i in range(5)]} for n in range(6)
    ]
    groups = read_embedding_groups(write_jsonl(tmp_path / "a.jsonl", lines), "all", DataOptions(), seed)
    texts = [[candidate.document.text for candidate in group.candidates] for group in groups[:2]]
    expected = [[f"yes {n}", *(f"no {n} {i}" for i in order)] for n, order in enumerate(shuffled)]
    assert texts == expected
    assert [group.query_id for group in choose_groups(groups, QueryChoice(most=2), "a", seed)] == drawn
