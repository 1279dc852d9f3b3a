"""What the programs of the peers share, which needs none of their libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank_jax.benchmarks.loading import FULL_PRECISION
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.side_environment import side_environment
from prorank_jax.prompts import AnswerTokens
from prorank_jax.rewards import answer_reward
from tests.cpu.benchmarks.peers import load_peer
from tests.cpu.tiny_run import REPOSITORY

ZERO, ONE, END = 3, 5, 7
TOKENS = st.sampled_from([ZERO, ONE, END, 11])


@given(st.lists(TOKENS, min_size=1, max_size=3), st.integers(0, 1), st.floats(0, 2), st.floats(0, 2))
def test_a_peers_reward_is_ours(completion, label, format_weight, correct_weight):
    settings = {
        "answers": {"zero": ZERO, "one": ONE, "end": END},
        "new_tokens": len(completion),
        "format_weight": format_weight,
        "correct_weight": correct_weight,
    }
    answers = AnswerTokens(ZERO, ONE, END)
    closed = np.array([[completion]], np.int32)
    if END in completion:
        first = completion.index(END)
        closed[0, 0, first:] = END
        completion = completion[: first + 1]  # peers get what was said, without padding
    ours = answer_reward(answers, format_weight, correct_weight)(closed, np.array([label]))
    theirs = load_peer("answer_reward").answer_reward(completion, label, settings)
    assert theirs == pytest.approx(float(ours[0, 0]), abs=1e-6)


def test_a_loop_takes_one_step_for_each_round():
    done = []

    def loop():
        for number in range(3):
            stepper.arrive()
            done.append(number)
        stepper.arrive()

    stepper = load_peer("stepper").Stepper(loop)
    for number in range(3):
        assert done == list(range(number))
        assert stepper.step() > 0
        assert done == list(range(number + 1))


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_loop_that_fails_fails_the_round(when):
    def loop():
        if when == "during":
            stepper.arrive()
        raise MemoryError("too large")

    stepper = load_peer("stepper").Stepper(loop)
    with pytest.raises(RuntimeError, match="the training loop stopped") as caught:
        stepper.step()
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_loop_that_ends_by_itself_fails_the_round():
    stepper = load_peer("stepper").Stepper(lambda: None)
    with pytest.raises(RuntimeError, match="stopped"):
        stepper.step()


LOWERED = """
import json, jax
from our_facts import our_facts
product = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((2, 2), "float32")).as_text()
print(json.dumps([our_facts({"dtype": "float32"})["precision"], "precision = [HIGHEST, HIGHEST]" in product]))
"""


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", [FULL_PRECISION, True]), ("bfloat16", [None, False])]
)
def test_a_side_in_jax_multiplies_float32_as_it_says(dtype, expected):
    bare = {name: value for name, value in os.environ.items() if name != "JAX_DEFAULT_MATMUL_PRECISION"}
    done = subprocess.run(
        [sys.executable, "-c", LOWERED],
        env=side_environment(bare, BenchmarkOptions(peer="tunix", dtype=dtype), keeps_path=True),
        cwd=REPOSITORY / "launch" / "peers",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected
