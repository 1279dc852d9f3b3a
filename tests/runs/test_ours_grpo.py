"""Our side of the stage 1 benchmark, in this process, against the same sums done another way."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from prorank_jax.benchmarks.agreement import compare_timed
from prorank_jax.benchmarks.grpo_work import GrpoWork, write_grpo_work
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.tasks import TASKS
from prorank_jax.continuations import distinct
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.transformer import Transformer
from prorank_jax.models.weights import load_model_config, load_params
from prorank_jax.train_state import apply_gradients
from tests.cpu.benchmarks.peers import load_peer
from tests.cpu.tiny_run import write_collection, write_model_folder

# More completions than differing ones are fed at first, so that the choice between those and all is compiled.
SIZE = GrpoWork(prompts=8, group_size=8, peer_batches=(8,))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "collection").mkdir()
    (folder / "work").mkdir()
    options = BenchmarkOptions(
        peer="trl",
        model=str(write_model_folder(folder / "model")),
        dataset=f"{write_collection(folder / 'collection')}:train",
        max_length=208,
        quick=True,
    )
    settings = write_grpo_work(options, SIZE, folder / "work")
    side = load_peer("ours_grpo").OurSide()
    facts = side.load(folder / "work")["facts"]
    with pytest.MonkeyPatch.context() as patch:  # it would raise the peak of the rounds
        patch.setattr(load_peer("ours_grpo"), "measured_matmul_flops", lambda _: pytest.fail("measured"))
        answer = side.prepare()
    return side, answer | {"facts": facts | answer["facts"]}, settings, folder / "work"


def _log_probs_of_whole_rows(work, prompts, completions):
    """Log-probabilities of completions, each run in a row with its prompt, unpadded: float64 [B, G, L]."""
    model = Transformer(load_model_config(work / "model"))
    params = load_params(work / "model", model.config)

    @jax.jit
    def logits_of(rows):
        layout = prompt_layout(jnp.full(len(rows), rows.shape[1]), rows.shape[1])
        hidden, _ = model.apply({"params": params}, rows, layout)
        return model.apply({"params": params}, hidden, method="answer_logits")

    found = []
    for prompt, group in zip(prompts, completions, strict=True):
        logits = logits_of(jnp.array([prompt + completion for completion in group]))
        every = log_softmax(np.asarray(logits, np.float64)[:, len(prompt) - 1 : -1], axis=-1)
        found.append(np.take_along_axis(every, np.array(group)[..., None], axis=-1)[..., 0])
    return np.array(found)


def test_the_checked_values_are_log_probabilities_and_the_clipped_loss(prepared):
    side, _, settings, work = prepared
    given = settings["check"]
    mask, offsets = np.array(given["mask"]), np.array(given["log_prob_offsets"])
    values = side.check()["values"]
    expected = _log_probs_of_whole_rows(work, given["prompts"], given["completions"])
    np.testing.assert_allclose(np.reshape(values[:-2], mask.shape), expected * mask, atol=1e-4)
    ratio, advantages = np.exp(-offsets), np.array(given["advantages"])[..., None]
    objective = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    assert values[-2] == pytest.approx(-(objective * mask).sum() / mask.sum(), abs=1e-5)
    assert values[-1] > 0


def test_the_timed_step_says_of_its_own_completions_what_a_plain_one_says(prepared):
    side, _, settings, _ = prepared
    answer = side.check()
    agreement = compare_timed("ours", answer, TASKS["grpo"].tolerance["float32"])
    assert agreement.values == 4 + SIZE.group_size * settings["new_tokens"]
    assert agreement.largest_difference < 1e-4
    assert answer["plain"][0] > 0  # some completion earned something
    assert answer["plain"][2] > 0


def _feed_only_the_first(tokens, compute):
    return compute(distinct(tokens, 1)[0])


def _leave_as_it_is(state, gradients, loss, optimizer):
    changed, metrics = apply_gradients(state, gradients, loss, optimizer)
    return dataclasses.replace(changed, params=state.params), metrics


@pytest.mark.parametrize(
    ("place", "fault", "rate", "wrong"),
    [
        ("prorank_jax.policy_gradient.of_distinct_or_all", _feed_only_the_first, 1e-6, "value [23] "),
        # At the usual rate a tiny model's log-probabilities hardly move.
        ("prorank_jax.steps.apply_gradients", _leave_as_it_is, 1e-3, r"value ([4-9]|1\d) "),
    ],
)
def test_a_timed_step_that_computes_something_else_is_found_out(
    place, fault, rate, wrong, prepared, monkeypatch
):
    program, work = load_peer("ours_grpo"), prepared[-1]
    monkeypatch.setattr(place, fault)
    monkeypatch.setattr(program, "checked_values", lambda *_: [])
    side = program.OurSide()
    side.load(work)
    side.settings["learning_rate"] = rate
    side.prepare()
    with pytest.raises(ValueError, match=wrong):
        compare_timed("ours", side.check(), TASKS["grpo"].tolerance["float32"])


def test_attention_that_the_device_lacks_is_refused_before_weights_are_loaded(prepared, monkeypatch):
    program, work = load_peer("ours_grpo"), prepared[-1]
    monkeypatch.setattr(program, "load_params", lambda *_: pytest.fail("loaded"))
    side = program.OurSide()
    side.load(work)
    side.settings["ours"]["attention"] = "cudnn"
    with pytest.raises(ValueError, match=r"model\.attention='cudnn': runs on NVIDIA GPUs only"):
        side.prepare()


def test_its_facts_say_what_was_measured(prepared):
    side, answer, _, _ = prepared
    assert answer["compile_seconds"] > 0
    assert answer["facts"]["flops_per_round"] > 0
    assert side.measure_yardstick()["facts"]["peak_flops"] > 0
    assert answer["facts"]["dtype"] == "float32"


def test_a_round_is_a_step_and_moves_the_weights(prepared):
    side, _, _, _ = prepared
    before = jax.tree.map(np.array, side.state.params)
    done = side.run_round()
    assert done["units"] == 8
    assert done["seconds"] > 0
    assert done["peak_bytes"] > 0
    assert int(side.state.step) == 1
    moved = jax.tree.map(lambda old, new: np.any(old != np.asarray(new)), before, side.state.params)
    assert any(jax.tree.leaves(moved))
