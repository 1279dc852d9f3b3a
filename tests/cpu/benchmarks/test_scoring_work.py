from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from prorank_jax.benchmarks import options
from prorank_jax.benchmarks.peer_model import (
    QWEN2_THIRD,
    QWEN2_THIRD_CONFIG,
    export_peer_model,
    read_peer_model,
)
from prorank_jax.benchmarks.scoring_work import (
    CPU_BATCHES,
    GPU_BATCHES,
    ScoringWork,
    least_flops,
    write_scoring_work,
)
from prorank_jax.flops import layer_weights, score_step_flops
from prorank_jax.prompt_settings import PromptSettings, read_prompt_settings
from prorank_jax.reranker import Reranker
from tests.cpu.benchmarks.command_lines import comparison
from tests.cpu.benchmarks.peers import load_peer
from tests.cpu.benchmarks.tiny_work import MAX_LENGTH, tiny_options, write_tiny_model
from tests.cpu.data_fixtures import write_beir_folder
from tests.cpu.tiny import tiny_config

SIZE = ScoringWork(queries=3, top_k=6, batch_size=4, peer_batches=(2, 5))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def work(tiny_folder, tmp_path_factory):
    """A work folder and the settings that were returned."""
    folder = tmp_path_factory.mktemp("work")
    options = tiny_options(tiny_folder, dataset="demo", system="You judge.", threads=3)
    return folder, write_scoring_work(options, SIZE, folder)


def test_the_file_holds_what_was_returned(work):
    folder, settings = work
    assert json.loads((folder / "work.json").read_text(encoding="utf-8")) == settings
    assert settings["threads"] == 3
    assert settings["dtype"] == "float32"
    assert settings["ours"] == {"batch_size": 4, "attention": "xla"}


def test_pairs_of_a_query_lie_together(work):
    _, settings = work
    groups = [list(group) for _, group in itertools.groupby(settings["pairs"], key=lambda pair: pair[0])]
    assert len(groups) == len({group[0][0] for group in groups}) == SIZE.queries
    assert all(len(group) == len({document for _, document in group}) <= SIZE.top_k for group in groups)
    assert settings["scored_pairs"] == len(settings["pairs"])


def test_prompts_are_those_of_the_exported_model(work, tiny_folder):
    folder, settings = work
    assert read_prompt_settings(folder / "model") == PromptSettings("You judge.", "", MAX_LENGTH)
    pairs = [tuple(pair) for pair in settings["pairs"]]
    exported = Reranker.from_pretrained(str(folder / "model"), batch_size=8, share_prefixes=True)
    original = Reranker.from_pretrained(
        str(tiny_folder), max_length=MAX_LENGTH, system="You judge.", batch_size=8
    )
    scores = exported.score_pairs(pairs)
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(scores, original.score_pairs(pairs), atol=1e-5)
    frame = settings["frame"]
    assert frame["prefix"].startswith("<|im_start|>system\nYou judge.<|im_end|>")
    render = read_peer_model(folder / "model").renderer.render
    lengths = [len(render(*pair)) for pair in pairs]
    assert settings["tokens"] == sum(lengths)
    assert settings["longest"] == max(lengths)


def test_checked_pairs_come_from_everywhere_and_tuning_from_the_middle(work):
    folder, settings = work
    count = settings["scored_pairs"]
    assert settings["check"] == sorted(set(settings["check"]))
    assert settings["check"][0] == 0
    assert settings["check"][-1] == count - 1
    render = read_peer_model(folder / "model").renderer.render
    lengths = np.array([len(render(*pair)) for pair in settings["pairs"]])
    chosen = lengths[settings["tuning"]]
    assert len(chosen) == max(SIZE.peer_batches)
    first = (count - len(chosen)) // 2
    np.testing.assert_array_equal(chosen, np.sort(lengths)[first : first + len(chosen)])


def test_least_flops_counts_what_is_shared_once():
    config = tiny_config()
    start, ends = np.arange(7), ([7, 8, 9], [10, 8], [11])
    prompts = [np.array([*start, *end]) for end in ends] + [np.array([5, 6])]
    key_values = 2 * 2 * config.dim * config.head_dim * config.kv_heads
    weights = 2 * layer_weights(config)
    keys = 4 * config.heads * config.head_dim
    whole_layers = (config.layers - 1) * (weights * 15 + keys * (7 * 7 + 3 * 10 + 2 * 9 + 1 * 8 + 2 * 2))
    last_layer = key_values * 15 + (weights - key_values) * 4 + keys * (10 + 9 + 8 + 2)
    assert least_flops(config, ["q", "q", "q", "r"], prompts) == whole_layers + last_layer
    apart = least_flops(config, ["a", "b", "c", "d"], prompts)
    assert apart == sum(score_step_flops(config, 1, len(prompt)) for prompt in prompts)


def test_a_third_of_qwen_has_its_proportions():
    layers, vocabulary = 24, 151_936  # of Qwen2.5-0.5B, whose other sizes are those of the third
    assert QWEN2_THIRD_CONFIG.layers * 3 == layers
    assert QWEN2_THIRD_CONFIG.vocab_size * 3 == pytest.approx(vocabulary, rel=1e-4)
    whole = layers * layer_weights(QWEN2_THIRD_CONFIG) + vocabulary * QWEN2_THIRD_CONFIG.dim
    assert whole == pytest.approx(494e6, rel=1e-3)


def test_command_line():
    name, options, size = comparison("scoring --peer_batches 8 64 --top_k 3")
    assert (name, options.peer, options.model, options.max_length) == ("scoring", "mxbai", QWEN2_THIRD, 512)
    assert size == ScoringWork(top_k=3, peer_batches=(8, 64))
    _, options, size = comparison("scoring --quick --max_length 99 --queries 7")
    assert options.max_length == 99
    assert size.queries == 7
    assert size.top_k < ScoringWork.top_k


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_peer_may_choose_larger_batches_on_a_gpu(on_gpu, monkeypatch):
    monkeypatch.setattr(options, "has_cuda", lambda: on_gpu)
    monkeypatch.setattr(options, "may_use_nvidia", lambda: on_gpu)
    assert comparison("scoring")[2].peer_batches == (GPU_BATCHES if on_gpu else CPU_BATCHES)
    assert comparison("scoring --peer_batches 32 8 8")[2].peer_batches == (8, 32)


@pytest.mark.parametrize(
    ("field", "value"),
    [("queries", 0), ("top_k", -1), ("batch_size", 0), ("attention", "fast"), ("peer_batches", ())],
)
def test_wrong_values_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        ScoringWork(**{field: value})


def test_a_length_without_room_fails_before_anything_is_written(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="max_length=20"):
        export_peer_model(tiny_options(tiny_folder, max_length=20), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_split_is_called_what_the_command_line_calls_it(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"^dataset='demo:tset': split='tset': the demo has"):
        write_scoring_work(tiny_options(tiny_folder, dataset="demo:tset"), SIZE, tmp_path)


def test_queries_without_candidates(tiny_folder, tmp_path):
    folder = write_beir_folder(tmp_path / "collection", split="test")
    lines = [json.dumps({"_id": f"q{i}", "text": "zzz"}) for i in range(10)]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="shares a word"):
        write_scoring_work(tiny_options(tiny_folder, dataset=str(folder)), SIZE, tmp_path)


def test_our_side_measures_the_machine_after_its_rounds_only(work, monkeypatch):
    """It takes memory, and the peak of the rounds is told."""
    program, (folder, settings) = load_peer("ours_scoring"), work
    measured = []
    monkeypatch.setattr(program, "measured_matmul_flops", lambda dtype: measured.append(dtype) or 5.0)
    side = program.OurSide()
    side.load(folder)
    assert side.prepare()["facts"]["flops_per_round"] == settings["flops_per_round"]
    done = side.run_round()
    assert (done["units"], done["compiled_again"]) == (len(settings["pairs"]), 0)
    assert not measured
    assert side.measure_yardstick() == {"facts": {"peak_flops": 5.0}}
