"""The command line of an evaluation: what it means, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.evaluation.fusion import Fusion
from prorank_jax.evaluation.options import EvaluationOptions, parse_options

GIVEN = ["--model", "model", "--dataset", "one", "two:dev"]
WEIGHTED = ["--fusion", "weighted", "--fusion_weight"]
TUNED = ["--fusion", "weighted", "--fusion_tune", "demo:train"]


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
        ([*GIVEN, "--fusion", "sum"], "fusion='sum': choose one of none, weighted, rrf"),
        ([*GIVEN, "--fusion", "weighted"], "fusion='weighted': has no weight; give fusion_weight, or"),
        ([*GIVEN, *WEIGHTED, "1.5"], "fusion_weight=1.5: .*from 0 to 1"),
        ([*GIVEN, *WEIGHTED, "nan"], "fusion_weight=nan: .*from 0 to 1"),
        ([*GIVEN, *WEIGHTED, "0.5", "--fusion_tune", "demo:train"], "not both"),
        ([*GIVEN, "--fusion_weight", "0.5"], "no effect with fusion='none'"),
        ([*GIVEN, "--fusion", "rrf", "--fusion_tune", "demo:train"], "no effect with fusion='rrf'"),
        ([*GIVEN, "--fusion", "rrf", "--fusion_queries", "5"], "fusion_queries=5: has no effect without"),
        ([*GIVEN, *TUNED, "--fusion_queries", "0"], "fusion_queries=0: must be at least 1"),
        ([*GIVEN, *TUNED, "b", "c"], "fusion_tune: 3 for 2 datasets"),
    ],
)
def test_what_cannot_work_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(arguments)


def test_datasets_may_be_named_together_or_apart():
    apart = ["--model", "model", "--dataset", "one", "--dataset", "two:dev"]
    expected = EvaluationOptions("model", ("one", "two:dev"), render_processes=None)
    assert parse_options(GIVEN) == parse_options(apart) == expected


def test_only_a_command_line_starts_processes_unasked():
    """A script would be run again by each of them."""
    assert EvaluationOptions("model", ("one",)).render_processes == 0
    assert parse_options([*GIVEN, "--render_processes", "2"]).render_processes == 2


def test_a_run_ranks_no_queries_to_tune_on(tmp_path):
    run = tmp_path / "run.trec"
    run.touch()
    with pytest.raises(ValueError, match="fusion_tune='demo:train': the run given as first_stage"):
        parse_options(["--model", "model", "--dataset", "one", "--first_stage", str(run), *TUNED])


def test_what_a_fusion_may_be():
    assert parse_options(GIVEN).fusion.given is None
    assert parse_options([*GIVEN, "--fusion", "rrf"]).fusion.given == Fusion("rrf")
    assert parse_options([*GIVEN, *WEIGHTED, "0.3"]).fusion.given == Fusion("weighted", 0.3)
    one, two = (parse_options([*GIVEN, *TUNED, *more]).fusion for more in ([], ["other"]))
    assert [one.tune_of(0), one.tune_of(1)] == ["demo:train"] * 2
    assert [two.tune_of(0), two.tune_of(1)] == ["demo:train", "other"]
    assert one.given is None
