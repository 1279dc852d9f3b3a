"""Scores do not depend on how pairs are batched, padded or spread over devices; few shapes are compiled."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prorank_jax.scorer
from prorank_jax import batch_shapes
from prorank_jax.batch_shapes import (
    FULL_BATCH_WIDTH,
    make_batch_shapes,
    pad_batch,
    plan_batches,
    plan_flops,
)
from prorank_jax.config import MeshOptions
from prorank_jax.flops import forward_flops
from prorank_jax.metrics_log import CompilationCounter
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.layers import rows_at
from prorank_jax.models.transformer import abstract_params
from prorank_jax.scorer import PairScorer
from prorank_jax.sharding import make_mesh, state_shardings
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_config, tiny_model

MAX_LENGTH = 80
CONFIG = tiny_config()
EXACT = 1e-5
max_lengths, batch_sizes, ways = st.integers(1, 9000), st.integers(1, 100), st.sampled_from([1, 2, 6, 8])


def render(pairs) -> list[list[int]]:
    """Prompts of random tokens; the document's number decides them and their length."""
    prompts = []
    for _, document in pairs:
        rng = np.random.default_rng(int(document))
        prompts.append(rng.integers(0, VOCABULARY, rng.integers(1, MAX_LENGTH + 1)).tolist())
    return prompts


def some_pairs(count: int) -> list[tuple[str, str]]:
    return [("query", str(number)) for number in range(count)]


def make_scorer(devices: int = 1, batch_size: int = 4, **axes: int) -> PairScorer:
    model, params = tiny_model()
    mesh = make_mesh(MeshOptions(**axes), jax.devices()[:devices])
    params = jax.device_put(params, state_shardings(abstract_params(model), mesh))
    return PairScorer(model, params, ANSWERS, mesh, max_length=MAX_LENGTH, batch_size=batch_size)


@pytest.fixture(scope="module")
def scorer() -> PairScorer:
    return make_scorer()


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Differences of whole logits, all prompts in one batch of the greatest width."""
    model, params = tiny_model()
    prompts = render(some_pairs(60))
    lengths = np.array([len(tokens) for tokens in prompts], np.int32)
    tokens = np.array([prompt + [0] * (MAX_LENGTH - len(prompt)) for prompt in prompts], np.int32)

    @jax.jit
    def answer_logits(params):
        hidden, _ = model.apply({"params": params}, tokens, prompt_layout(lengths, MAX_LENGTH))
        return model.apply(
            {"params": params}, rows_at(hidden, lengths[:, None] - 1)[:, 0], method="answer_logits"
        )

    logits = np.asarray(answer_logits(params))
    return logits[:, ANSWERS.one] - logits[:, ANSWERS.zero]


@given(max_lengths, batch_sizes, ways)
def test_shapes_reach_every_prompt_with_little_padding(max_length, batch_size, ways):
    shapes = make_batch_shapes(max_length, batch_size, ways)
    assert list(shapes.widths) == sorted(set(shapes.widths))
    assert list(shapes.rows) == sorted(set(shapes.rows))
    assert shapes.widths[-1] == max_length
    assert all(rows % ways == 0 for rows in shapes.rows)
    assert batch_size <= shapes.rows[-1] < batch_size + ways
    for length in {1, max_length // 3 + 1, max_length}:
        assert length <= shapes.width_for(length) <= max(length + 32, 1.25 * length + 1)
    for prompts in range(1, shapes.rows[-1] + 1):
        assert prompts <= shapes.rows_for(prompts) <= max(ways, 2 * prompts + ways)


@given(st.lists(st.integers(1, 3000), max_size=200), batch_sizes, ways)
def test_batches_hold_every_prompt_once_and_bound_the_memory(lengths, batch_size, ways):
    shapes = make_batch_shapes(3000, batch_size, ways)
    batches = plan_batches(lengths, shapes, CONFIG)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    memory = []
    for batch in batches:
        rows, width = shapes.rows_for(len(batch)), shapes.width_for(lengths[batch[0]])
        assert rows * width**2 <= shapes.rows[-1] * FULL_BATCH_WIDTH**2 or rows == ways
        assert [lengths[place] for place in batch] == sorted(
            (lengths[place] for place in batch), reverse=True
        )
        memory.append(rows * width**2)
    assert memory == sorted(memory, reverse=True)


def cost_of(batches, lengths, shapes) -> int:
    """FLOPs of batches, and those of the overhead of each."""
    prompts = [np.zeros(length, np.int32) for length in lengths]
    overhead = len(batches) * forward_flops(CONFIG, batch_shapes._BATCH_OVERHEAD, 0)
    return plan_flops(batches, prompts, shapes, CONFIG) + overhead


def every_cut(lengths, shapes):
    """All the ways to cut prompts sorted by length into batches that may be."""
    if not len(lengths):
        yield []
        return
    most = shapes.most_rows(shapes.width_for(lengths[0]))
    for count in range(1, min(most, len(lengths)) + 1):
        for rest in every_cut(lengths[count:], shapes):
            yield [np.arange(count), *(batch + count for batch in rest)]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=9), st.integers(1, 6), st.sampled_from([1, 2]))
def test_no_other_cut_is_less_work(lengths, batch_size, ways):
    lengths = sorted(lengths, reverse=True)
    shapes = make_batch_shapes(600, batch_size, ways)
    planned = cost_of(plan_batches(lengths, shapes, CONFIG), lengths, shapes)
    assert planned == min(cost_of(batches, lengths, shapes) for batches in every_cut(lengths, shapes))


def test_a_few_prompts_are_not_filled_up_to_a_full_batch():
    shapes = make_batch_shapes(512, 32, 1)
    batches = plan_batches([400] * 20, shapes, CONFIG)
    assert [len(batch) for batch in batches] == [16, 4]


def test_filler_rows_have_one_token():
    shapes = make_batch_shapes(40, 4, 1)
    prompts = [np.ones(1, np.int32), np.arange(5, dtype=np.int32), np.arange(33, dtype=np.int32)]
    batch = pad_batch(prompts, [1, 2, 0], shapes)
    assert batch.tokens.shape == (4, 40)
    assert batch.lengths.tolist() == [5, 33, 1, 1]
    assert batch.examples.tolist() == [1, 2, 0, -1]
    assert batch.tokens[1, :33].tolist() == list(range(33))


@pytest.mark.parametrize(
    ("devices", "batch_size", "axes"),
    [
        (1, 1, {}),
        (1, 7, {}),
        (1, 64, {}),
        (8, 4, {}),
        (8, 16, {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
)
def test_scores_are_logit_differences_whatever_the_batch_and_the_mesh(devices, batch_size, axes, expected):
    scores = make_scorer(devices, batch_size, **axes).score(render, some_pairs(60))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)


@settings(max_examples=12)
@given(st.permutations(range(60)), st.sampled_from([0, 1, 22, 60]))
def test_scores_come_in_the_order_of_the_pairs(scorer, expected, order, count):
    order = order[:count]
    scores = scorer.score(render, [some_pairs(60)[place] for place in order])
    np.testing.assert_allclose(scores, expected[order], rtol=0, atol=EXACT)


def test_windows_are_rendered_ahead_one_at_a_time(monkeypatch, scorer, expected):
    monkeypatch.setattr(prorank_jax.scorer, "WINDOW", 8)
    progress, ahead, threads = [], [], set()

    def watched(pairs) -> list[list[int]]:
        threads.add(threading.get_ident())
        ahead.append(int(pairs[0][1]) - sum(progress))
        return render(pairs)

    scores = scorer.score(watched, some_pairs(60), progress.append)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)
    assert threading.get_ident() not in threads
    assert len(threads) == 1
    assert sum(progress) == 60
    assert min(progress) >= 1
    # At most two windows are rendered while the batches of one run, the last of which is still out.
    assert max(ahead) < 3 * 8 + 4


CHUNKS = [some_pairs(60)[:7], some_pairs(60)[7:8], [], some_pairs(60)[8:41], some_pairs(60)[41:], []]


@pytest.mark.parametrize("window", [3, 8, 1000])
def test_chunks_are_scored_to_the_bit_as_by_themselves(monkeypatch, scorer, window):
    monkeypatch.setattr(prorank_jax.scorer, "WINDOW", window)
    alone = [scorer.score(render, chunk) for chunk in CHUNKS]
    progress: list[int] = []
    counted = []
    for scores in scorer.score_chunks(render, iter(CHUNKS), progress.append):
        np.testing.assert_array_equal(scores, alone[len(counted)])
        counted.append(sum(progress))
    assert counted == np.cumsum([len(chunk) for chunk in CHUNKS]).tolist()


def test_the_next_chunk_is_on_the_device_before_the_scores_of_one_are_given(monkeypatch, scorer):
    started: list[int] = []
    start = scorer._start

    def watched(batch):
        started.append(int((batch.examples >= 0).sum()))
        return start(batch)

    monkeypatch.setattr(scorer, "_start", watched)
    chunks = scorer.score_chunks(render, [some_pairs(60)[:8], some_pairs(60)[8:16]])
    assert len(next(chunks)) == 8
    assert sum(started) > 8
    assert len(next(chunks)) == 8
    assert next(chunks, None) is None


def test_each_shape_is_compiled_once():
    scorer = make_scorer(batch_size=8)
    assert scorer.compiled_shapes == set()
    counter = CompilationCounter()
    scorer.score(render, some_pairs(60))
    shapes, compiled = set(scorer.compiled_shapes), counter.count
    assert {rows for rows, _ in shapes} <= {1, 2, 4, 8}
    assert {width for _, width in shapes} <= {32, 64, 80}
    assert compiled == len(shapes) <= 4  # one for each width, and one for the rows left over
    scorer.score(render, some_pairs(60)[::-1])
    assert (counter.count, scorer.compiled_shapes) == (compiled, shapes)


@pytest.fixture(scope="module")
def empty_scorer() -> PairScorer:
    """Without a model: of its batches only the shapes count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            prorank_jax.scorer, "make_score_step", lambda *_: lambda _, batch: np.zeros(len(batch.lengths))
        )
        return make_scorer()


@settings(max_examples=25)
@given(st.integers(1, 9), ways, st.integers(1, 600), st.lists(st.integers(1, 600), min_size=1), st.data())
def test_after_the_warm_up_no_shape_is_new(empty_scorer, batch_size, ways, longest, lengths, data):
    lengths = [min(length, longest) for length in lengths]
    shortest = data.draw(st.integers(1, min(lengths)))
    empty_scorer.shapes = make_batch_shapes(600, batch_size, ways)
    empty_scorer.compiled_shapes.clear()
    empty_scorer.warm_up(shortest, longest)
    met = set(empty_scorer.compiled_shapes)
    empty_scorer.score(
        lambda pairs: [[0] * lengths[int(number)] for _, number in pairs], some_pairs(len(lengths))
    )
    assert empty_scorer.compiled_shapes == met
    assert all(empty_scorer.shapes.width_for(shortest) <= width for _, width in met)


class _StandInDevice:
    """Computes nothing, one batch after the other, and notes what it was given meanwhile."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.started = self.finished = self.most_unfinished = 0
        self.told_at_once = False
        self._telling = threading.Lock()
        self._work = ThreadPoolExecutor(1)

    def step(self, _params, batch) -> _Computed:
        is_alone = self._telling.acquire(blocking=False)
        self.told_at_once |= not is_alone
        self.started += 1
        self.most_unfinished = max(self.most_unfinished, self.started - self.finished)
        result = _Computed(self._work.submit(self._compute, np.asarray(batch.tokens)))
        time.sleep(0.001)  # in which another thread may come
        if is_alone:
            self._telling.release()
        return result

    def _compute(self, tokens: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        self.finished += 1
        if self.fails and (tokens == 13).any():
            raise RuntimeError("out of memory")
        return tokens[:, 0].astype(np.float32)


class _Computed:
    """An array to be."""

    def __init__(self, result: Future[np.ndarray]) -> None:
        self._result = result

    def block_until_ready(self) -> _Computed:
        self._result.result()
        return self

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._result.result()


def score_in_threads(monkeypatch, device: _StandInDevice) -> list[np.ndarray | BaseException]:
    """Eight threads that each score twenty prompts, all of the number of the thread."""
    monkeypatch.setattr(prorank_jax.scorer, "make_score_step", lambda *_: device.step)
    scorer = make_scorer(batch_size=2)

    def score(number: int) -> np.ndarray:
        return scorer.score(lambda pairs: [[number]] * len(pairs), some_pairs(20))

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(score, number) for number in range(10, 18)]
    return [call.exception() or call.result() for call in calls]


def test_threads_take_turns_and_keep_few_batches_in_flight(monkeypatch):
    device = _StandInDevice()
    found = score_in_threads(monkeypatch, device)
    np.testing.assert_array_equal(found, np.repeat(np.arange(10, 18, dtype=np.float32)[:, None], 20, axis=1))
    assert not device.told_at_once
    assert device.most_unfinished == prorank_jax.scorer.BATCHES_IN_FLIGHT


def test_a_batch_that_fails_is_an_error_of_its_own_thread_alone(monkeypatch):
    found = score_in_threads(monkeypatch, _StandInDevice(fails=True))
    assert isinstance(found.pop(13 - 10), RuntimeError)
    assert [list(scores) for scores in found] == [[number] * 20 for number in (10, 11, 12, 14, 15, 16, 17)]


def test_an_error_of_the_renderer_comes_through(monkeypatch, scorer):
    monkeypatch.setattr(prorank_jax.scorer, "WINDOW", 8)

    def failing(pairs) -> list[list[int]]:
        if any(document == "20" for _, document in pairs):
            raise ValueError("no such text")
        return render(pairs)

    with pytest.raises(ValueError, match="no such text"):
        scorer.score(failing, some_pairs(60))


def test_no_pairs_give_no_scores(scorer):
    scores = scorer.score(render, [])
    assert (scores.shape, scores.dtype) == ((0,), np.float32)
