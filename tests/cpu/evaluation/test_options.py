"""The command line of an evaluation: what it means, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.evaluation.options import EvaluationOptions, parse_options

GIVEN = ["--model", "model", "--dataset", "one", "two:dev"]


def test_the_default_folder_is_named_after_the_model():
    assert EvaluationOptions("org/name", ("demo",)).folder == Path("runs/eval/org-name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "one"], "required: --model"),
        (["--model", "model"], "required: --dataset"),
        (["--model", " ", "--dataset", "one"], "model=''"),
        ([*GIVEN, "--top_k", "0"], "top_k=0"),
        ([*GIVEN, "--top_k", "many"], "--top_k: invalid int value"),
        ([*GIVEN, "--queries", "-1"], "queries=-1"),
        ([*GIVEN, "--nonsense", "1"], "unrecognized arguments: --nonsense"),
        ([*GIVEN, "--compute_dtype", "int4"], "compute_dtype='int4'.*float32, bfloat16"),
        ([*GIVEN, "--attention", "flash"], "attention='flash'.*xla, splash"),
        ([*GIVEN, "--first_stage", "absent.trec"], "one run cannot serve 2 datasets"),
        ([*GIVEN, "--first_stage", "bm25", "absent.trec"], "first_stage='absent.trec': no such file"),
        ([*GIVEN, "--compare", "absent.trec"], "1 runs for 2 datasets"),
    ],
)
def test_what_cannot_work_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(arguments)


def test_datasets_may_be_named_together_or_apart():
    apart = ["--model", "model", "--dataset", "one", "--dataset", "two:dev"]
    assert parse_options(GIVEN) == parse_options(apart) == EvaluationOptions("model", ("one", "two:dev"))
