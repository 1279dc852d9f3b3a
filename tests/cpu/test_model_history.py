"""Which evaluations a model's card may cite: those of the very weights that it describes."""

from __future__ import annotations

import logging

import pytest

from prorank_jax.config import RunConfig
from prorank_jax.model_history import Evaluation, evaluations_of, read_evaluation
from prorank_jax.model_identity import model_identity
from prorank_jax.run_folder import CHECKPOINTS_FOLDER, write_config, write_json
from tests.cpu.run_like_folder import STEP, WEIGHTS, fingerprint_of_before, write_run_folder

DATASETS = {"demo": {"first_stage": {"ndcg@10": 0.5}, "reranked": {"ndcg@10": 0.6}}}


def evaluated(file, identity: dict) -> Evaluation:
    write_json(file, {**identity, "top_k": 100, "datasets": DATASETS})
    return read_evaluation(file)


def save_checkpoint(run, step: int) -> None:
    folder = run / CHECKPOINTS_FOLDER / str(step)
    folder.mkdir(parents=True)
    (folder / "data").write_text(f"weights of step {step}")


def test_an_evaluation_of_an_earlier_checkpoint_is_left_out_and_named(tmp_path, caplog):
    run = tmp_path / "run"
    save_checkpoint(run, 60)
    write_config(run, RunConfig())
    (run / "model_config.json").write_text("{}")
    before = evaluated(tmp_path / "before.json", model_identity(str(run)))
    save_checkpoint(run, 120)
    after = evaluated(tmp_path / "after.json", model_identity(str(run)))
    assert (before.step, after.step) == (60, 120)
    with caplog.at_level(logging.WARNING):
        assert evaluations_of(str(run), [before, after]) == (after,)
    assert caplog.messages == [
        f"an evaluation of {run} at step 60 is left out of the card: this is {run} at step 120"
    ]


def test_an_evaluation_by_an_earlier_version_is_kept_while_it_is_of_these_weights(tmp_path):
    run = write_run_folder(tmp_path / "run")
    identity = {"model": str(run), "model_step": STEP, "model_fingerprint": fingerprint_of_before(run)}
    evaluation = evaluated(tmp_path / "metrics.json", identity)
    assert evaluations_of(str(run), [evaluation]) == (evaluation,)
    (run / WEIGHTS).write_text("others")
    assert evaluations_of(str(run), [evaluation]) == ()


def test_an_evaluation_that_does_not_tell_its_weights_is_kept(tmp_path):
    untold = evaluated(tmp_path / "metrics.json", {"model": "runs/stage2"})
    assert (untold.step, untold.fingerprint) == (None, "")
    assert evaluations_of("no/such/model", [untold]) == (untold,)


@pytest.mark.parametrize("field", [{"model_step": "60"}, {"model_fingerprint": None}])
def test_an_evaluation_with_damaged_weights_fields_is_refused(field, tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.json"):
        evaluated(tmp_path / "metrics.json", {"model": "runs/stage2", **field})
