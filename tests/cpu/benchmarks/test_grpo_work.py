from __future__ import annotations

import json

import numpy as np
import pytest

from prorank_jax.benchmarks.grpo_work import GrpoWork, checked_completions, write_grpo_work
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.work import unused_token
from prorank_jax.models.weights import load_model_config
from tests.cpu.benchmarks.command_lines import comparison
from tests.cpu.tiny_run import TOKENIZER_SIZE, write_collection, write_model_folder

SIZE = GrpoWork(prompts=4, group_size=4, peer_batches=(8,))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    model, collection = write_model_folder(folder / "model"), folder / "collection"
    collection.mkdir()
    dataset = f"{write_collection(collection)}:train"
    return BenchmarkOptions(peer="trl", model=str(model), dataset=dataset, max_length=208, quick=True)


@pytest.fixture(scope="module")
def written(options, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return work, write_grpo_work(options, SIZE, work)


def test_the_folder_holds_what_the_sides_read(written):
    work, settings = written
    assert json.loads((work / "work.json").read_text()) == settings
    assert load_model_config(work / "model").vocab_size == TOKENIZER_SIZE
    assert (work / "model" / "tokenizer.json").is_file()


def test_each_step_has_real_prompts_half_of_them_relevant(written):
    _, settings = written
    for batch in settings["batches"]:
        assert len(batch["prompts"]) == 4
        assert sum(batch["labels"]) == 2
    prompts = [prompt for batch in settings["batches"] for prompt in batch["prompts"]]
    longest = max(map(len, prompts))
    assert longest <= settings["width"] < longest + 16
    assert settings["width"] % 16 == 0
    assert settings["padding_token"] not in {token for prompt in prompts for token in prompt}
    assert settings["padding_token"] not in settings["answers"].values()


def test_the_same_seed_gives_the_same_work_and_another_one_another(options, written, tmp_path):
    import dataclasses

    (tmp_path / "same").mkdir()
    (tmp_path / "other").mkdir()
    assert write_grpo_work(options, SIZE, tmp_path / "same") == written[1]
    other = write_grpo_work(dataclasses.replace(options, seed=1), SIZE, tmp_path / "other")
    assert other["batches"] != written[1]["batches"]
    assert other["check"] != written[1]["check"]


def test_checked_completions_stop_counting_after_their_first_end():
    given = checked_completions([[1, 2]] * 8, 3, (5, 6, 9), seed=0)
    for completion, mask in zip(
        np.reshape(given["completions"], (-1, 3)), np.reshape(given["mask"], (-1, 3)), strict=True
    ):
        ends = np.flatnonzero(completion == 9)
        length = ends[0] + 1 if len(ends) else 3
        assert mask.tolist() == [1] * length + [0] * (3 - length)
    assert 0 < np.mean(given["mask"]) < 1
    assert np.ptp(np.exp(given["log_prob_offsets"])) > 0.4  # on both sides of the clip


def test_padding_is_the_first_token_that_nobody_uses():
    assert unused_token([[0, 1], [3]], [2]) == 4
    assert unused_token([[1]], [2]) == 0


@pytest.mark.parametrize(
    ("line", "tried"),
    [
        ("grpo", (16, 128)),
        ("grpo --prompts 4 --group_size 8", (8, 32)),
        ("grpo --peer tunix", (16, 128)),
        ("grpo --peer tunix --peer_batch 32 64", (32, 64)),
        ("grpo --peer_batch 8", (8,)),
        ("grpo --quick", (4,)),
    ],
)
def test_stage_1s_peer_tries_a_group_and_the_whole_step_unless_told_otherwise(line, tried):
    assert comparison(line)[2].peer_batches == tried


def test_the_default_size_tries_what_the_command_line_tries():
    assert comparison("grpo")[2] == GrpoWork()
