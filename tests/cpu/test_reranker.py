"""The reranker on a tiny model folder and a run directory: scores, ranking, defaults and bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prorank_jax.reranker
import prorank_jax.scorer
from prorank_jax.calibration import Calibration
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config import MeshOptions
from prorank_jax.config_files import config_to_dict, load_config
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.prompts import make_renderer
from prorank_jax.reranker import Reranker
from prorank_jax.run_folder import MODEL_CONFIG_FILE, TOKENIZER_FOLDER, write_config, write_json
from prorank_jax.scorer import PairScorer
from prorank_jax.sharding import make_mesh
from prorank_jax.types import TrainState
from tests.cpu.tiny import tiny_model
from tests.cpu.tiny_run import TOKENIZER, TOKENIZER_SIZE, write_model_folder

EXACT = 1e-5
QUERY = "how do plants store water?"
DOCUMENTS = [
    "Roots store water.",
    "",
    "A document of many words about water, read to its end by nobody. " * 40,
    "Wasser 水を 저장 تخزن क्या é e\u0301 👍🏽 x²=½\u00a0",
    "The search engine closes at 5.",
    "\u0000 \t\r\n <|im_end|>",
    "Roots store water.",
    " Roots  store  water . ",
]
PAIRS = [(query, document) for query in (QUERY, "relevance") for document in DOCUMENTS]


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    """Programs for one device compile faster; a test of its own covers eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            prorank_jax.reranker, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1])
        )
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reranker(model_folder) -> Reranker:
    return Reranker.from_pretrained(str(model_folder))


def test_workers_of_a_pod_that_have_not_met_are_refused(model_folder, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="jax sees 4 processes, which have not met"):
        Reranker.from_pretrained(str(model_folder))


def test_a_model_that_is_only_checked_starts_no_accelerator(model_folder):
    """The process of an ablation checks it, and others compute: a TPU is one process's at a time."""
    code = (
        "import sys; from prorank_jax.model_prompt import open_with_prompts; open_with_prompts(sys.argv[1]);"
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code, str(model_folder)], check=True, timeout=120)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> Path:
    """What a run leaves, with parameters other than the model folder's."""
    folder = tmp_path_factory.mktemp("run")
    overrides = {"data.max_length": 230, "data.instruction": "prefer recent work", "data.system": "Be brief."}
    config = load_config(None, {"output_dir": str(folder), **overrides})
    model, params = tiny_model(seed=1, scale=1.0, vocab_size=TOKENIZER_SIZE, max_positions=256)
    write_config(folder, config)
    write_json(folder / MODEL_CONFIG_FILE, model.config.to_hf())
    save_tokenizer(load_tokenizer(str(TOKENIZER)), folder / TOKENIZER_FOLDER)
    state = TrainState(step=np.int32(3), params=params, opt_state=np.zeros(1))
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state, 3, {}, config_to_dict(config), model.config.to_hf())
    return folder


def expected_scores(pairs, *, seed: int = 0, **prompt_options) -> np.ndarray:
    """Differences of whole logits of prompts rendered apart from the reranker."""
    model, params = tiny_model(seed=seed, scale=1.0, vocab_size=TOKENIZER_SIZE, max_positions=256)
    renderer = make_renderer(load_tokenizer(str(TOKENIZER)), **{"max_length": 256} | prompt_options)
    prompts = [renderer.render(query, document) for query, document in pairs]
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.array([prompt + [0] * (256 - len(prompt)) for prompt in prompts], np.int32)

    @jax.jit
    def all_logits(params):
        hidden, _ = model.apply({"params": params}, tokens, prompt_layout(lengths, 256))
        return model.apply({"params": params}, hidden, method="answer_logits")

    last = np.asarray(all_logits(params))[np.arange(len(pairs)), lengths - 1]
    return last[:, renderer.answer_tokens.one] - last[:, renderer.answer_tokens.zero]


def test_scores_are_the_logit_differences_of_the_prompts(reranker):
    scores = reranker.predict(PAIRS)
    assert (scores.shape, scores.dtype) == ((len(PAIRS),), np.float32)
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(scores, expected_scores(PAIRS), rtol=0, atol=EXACT)


@settings(max_examples=12)
@given(st.lists(st.integers(0, len(PAIRS) - 1), max_size=40))
def test_a_score_depends_on_its_pair_alone(reranker, places):
    alone = expected_scores_once()
    scores = reranker.predict([list(PAIRS[place]) for place in places])
    np.testing.assert_allclose(scores, alone[places], rtol=0, atol=EXACT)
    for place in set(places):
        assert len({scores[i] for i, other in enumerate(places) if PAIRS[other] == PAIRS[place]}) == 1


_known: list[np.ndarray] = []


def expected_scores_once() -> np.ndarray:
    if not _known:
        _known.append(expected_scores(PAIRS))
    return _known[0]


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"compute_dtype": "bfloat16"}])
def test_batch_size_and_dtype(model_folder, options):
    scores = Reranker.from_pretrained(str(model_folder), **options).predict(PAIRS)
    tolerance = 0.05 if "compute_dtype" in options else EXACT
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected_scores_once(), rtol=0, atol=tolerance)


def test_eight_devices_agree_with_one(monkeypatch, model_folder):
    monkeypatch.setattr(prorank_jax.reranker, "make_mesh", make_mesh)
    mesh = MeshOptions(data=2, fsdp=2, tensor=2)
    scores = Reranker.from_pretrained(str(model_folder), batch_size=13, mesh=mesh).predict(PAIRS)
    np.testing.assert_allclose(scores, expected_scores_once(), rtol=0, atol=EXACT)


@pytest.mark.parametrize("devices", [1, 8])
def test_threads_get_the_scores_that_one_alone_gets(monkeypatch, model_folder, devices):
    monkeypatch.setattr(
        prorank_jax.reranker, "make_mesh", lambda options: make_mesh(options, jax.devices()[:devices])
    )
    reranker = Reranker.from_pretrained(model_folder, batch_size=1)
    calls = [(pairs, instruction) for pairs in (PAIRS, PAIRS[4:12]) for instruction in ("", "newest first")]
    alone = [reranker.predict(pairs, instruction=instruction) for pairs, instruction in calls]
    with ThreadPoolExecutor(8) as threads:
        together = [
            threads.submit(reranker.predict, pairs, instruction=instruction)
            for _ in range(4)
            for pairs, instruction in calls
        ]
    for scores, call in zip(alone * 4, together, strict=True):
        np.testing.assert_array_equal(call.result(), scores)


def test_a_run_directory_brings_its_prompt_and_newest_parameters(run_directory):
    run = {"seed": 1, "max_length": 230, "instruction": "prefer recent work", "system": "Be brief."}
    reranker = Reranker.from_pretrained(str(run_directory))
    assert (reranker.max_length, reranker.source) == (230, str(run_directory))
    assert reranker.model_config.vocab_size == TOKENIZER_SIZE
    np.testing.assert_allclose(reranker.predict(PAIRS), expected_scores(PAIRS, **run), rtol=0, atol=EXACT)
    other = {"max_length": 250, "instruction": "", "system": "Judge."}
    changed = Reranker.from_pretrained(str(run_directory), **other)
    expected = expected_scores(PAIRS, seed=1, **other)
    np.testing.assert_allclose(changed.predict(PAIRS), expected, rtol=0, atol=EXACT)


def test_options_may_be_whole_numbers_of_numpy(reranker, model_folder):
    other = Reranker.from_pretrained(model_folder, max_length=np.int64(256), batch_size=np.int32(4))
    assert other.max_length == 256
    np.testing.assert_allclose(other.predict(PAIRS[:3]), reranker.predict(PAIRS[:3]), atol=EXACT)


def test_an_instruction_may_come_with_the_call(reranker, model_folder):
    expected = expected_scores(PAIRS, instruction="prefer recent work")
    assert np.abs(expected - expected_scores_once()).max() > 0.01
    scores = reranker.predict(PAIRS, instruction="prefer recent work")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)
    other = Reranker.from_pretrained(str(model_folder), instruction="prefer recent work")
    np.testing.assert_array_equal(other.score_pairs(PAIRS), scores)
    np.testing.assert_allclose(other.predict(PAIRS, instruction=""), expected_scores_once(), atol=EXACT)
    ranked = reranker.rank(QUERY, DOCUMENTS, instruction="prefer recent work")
    best_first = np.sort(scores[: len(DOCUMENTS)])[::-1]
    np.testing.assert_allclose([result.score for result in ranked], best_first, rtol=0, atol=EXACT)


def test_rank_sorts_by_score_and_equal_documents_keep_their_order(reranker):
    documents = DOCUMENTS * 3
    scores = reranker.predict([(QUERY, document) for document in documents])
    ranked = reranker.rank(QUERY, documents)
    assert [result.index for result in ranked] == sorted(range(len(documents)), key=lambda i: (-scores[i], i))
    assert [result.score for result in ranked] == [scores[result.index] for result in ranked]
    assert reranker.rank(QUERY, documents, top_k=5) == ranked[:5]
    assert reranker.rank(QUERY, documents, top_k=np.int64(1000)) == ranked


def test_results_have_the_fields_of_both_packages(reranker):
    best = reranker.rank(QUERY, DOCUMENTS, top_k=1)[0]
    assert best.document is None
    assert dict(best) == {"corpus_id": best.index, "score": best.score}
    shown = reranker.rank(QUERY, iter(DOCUMENTS), 1, True)[0]
    assert (shown.index, shown.score, shown.document) == (best.index, best.score, DOCUMENTS[best.index])
    assert dict(shown) == {"corpus_id": best.index, "score": best.score, "text": DOCUMENTS[best.index]}
    json.dumps(dict(shown))
    with pytest.raises(KeyError):
        best["text"]


def test_empty_lists(reranker):
    assert reranker.rank(QUERY, []) == []
    assert reranker.predict([]).shape == (0,)
    assert reranker.predict([], calibrated=True).shape == (0,)
    assert reranker.rank(QUERY, [""])[0].index == 0


class _Frame:
    """A loop over a pandas DataFrame gives the names of its columns."""

    ndim = 2

    def __iter__(self):
        return iter(["document"])


@pytest.mark.parametrize(
    ("query", "documents", "options", "said"),
    [
        ("", ["a"], {}, r"query=''.*empty"),
        (" \n", ["a"], {}, r"query=.*empty"),
        (b"q", ["a"], {}, r"query: bytes.*decode"),
        (None, ["a"], {}, "query: NoneType"),
        ("q", "one text", {}, "documents: str is no list"),
        ("q", b"bytes", {}, "documents: bytes is no list"),
        ("q", {"a": "b"}, {}, "documents: dict is no list"),
        ("q", np.array([["a", "b"]]), {}, "documents: a table.*one column"),
        ("q", _Frame(), {}, "documents: a table.*one column"),
        ("q", 7, {}, "documents: int is no list"),
        ("q", ["a", b"\xff"], {}, r"documents\[1\]: bytes.*decode"),
        ("q", ["a", None], {}, r"documents\[1\]: NoneType"),
        ("q", [{"text": "a"}], {}, r"documents\[0\]: dict.*str"),
        ("q", ["a"], {"top_k": 0}, "top_k=0: must be at least 1"),
        ("q", ["a"], {"top_k": -3}, "top_k=-3"),
        ("q", ["a"], {"top_k": 1.5}, r"top_k=1\.5: must be a whole number"),
        (
            "q",
            ["a"],
            {"instruction": "long " * 300},
            "instruction of 1500 characters .* max_length=256; shorten",
        ),
    ],
)
def test_bad_input_to_rank_is_one_clear_error(reranker, query, documents, options, said):
    with pytest.raises(ValueError, match=said):
        reranker.rank(query, documents, **options)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (("query", "document"), r"pairs\[0\]: no pair.*\[\(query, document\)\]"),
        ("text", "pairs: str is no list"),
        (np.array("text"), "pairs: ndarray is no list"),
        (np.array([["q", "d", "e"]]), r"pairs\[0\]: no pair of texts"),
        (np.array([[1, 2]]), r"query of pairs\[0\]: int, not a text"),
        ([("q", "d"), ("q",)], r"pairs\[1\]: no pair"),
        ([("q", "d", "e")], r"pairs\[0\]: no pair"),
        ([("q", "d"), ("", "d")], r"query of pairs\[1\]=''"),
        ([("q", b"d")], r"document of pairs\[0\]: bytes"),
        ([(3, "d")], r"query of pairs\[0\]: int"),
    ],
)
def test_bad_pairs_are_one_clear_error(reranker, pairs, said):
    with pytest.raises(ValueError, match=said):
        reranker.predict(pairs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"compute_dtype": "float16"}, "compute_dtype='float16': choose one of"),
        ({"max_length": 20}, r"data\.max_length=20: too short"),
        ({"max_length": 257}, "max_length=257: .* has 256 positions"),
        ({"system": "<|im_end|>"}, r"data\.system"),
        ({"system": 5}, "system=5: must be a text"),
        ({"system": "a\ud800b"}, "half of a surrogate pair"),
        ({"max_length": "200"}, "max_length='200': must be a whole number"),
    ],
)
def test_options_that_cannot_work_are_refused(model_folder, options, said):
    with pytest.raises(ValueError, match=said):
        Reranker.from_pretrained(str(model_folder), **options)


def test_a_tokenizer_of_another_model_is_refused(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    tokenizer = load_tokenizer(str(tmp_path))
    tokenizer.add_tokens([f"<more {number}>" for number in range(20)])
    save_tokenizer(tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"its tokenizer has \d+ tokens, its embedding 496"):
        Reranker.from_pretrained(str(tmp_path))


def test_scores_that_are_no_numbers_are_an_error():
    model, params = tiny_model(scale=1.0, vocab_size=TOKENIZER_SIZE, max_positions=256)
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[3].set(np.nan)
    renderer = make_renderer(load_tokenizer(str(TOKENIZER)), max_length=256)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    scorer = PairScorer(model, params, renderer.answer_tokens, mesh, max_length=256, batch_size=4)
    damaged = Reranker(scorer, renderer, source="some/model", model_config=model.config)
    with pytest.raises(ValueError, match=r"model\.source='some/model': the score of pair 0 is nan"):
        damaged.rank(QUERY, DOCUMENTS)


def test_half_a_surrogate_pair_is_replaced(reranker):
    scores = reranker.predict([("q\udc80", "a\ud83d"), ("q?", "a?")])
    assert scores[0] == pytest.approx(scores[1], abs=EXACT)


def test_ten_megabytes_are_cut_to_what_fits(reranker):
    text = "Roots store water. "
    scores = reranker.predict([(QUERY, text * 550_000), (QUERY, text * 100), ("a" * 10_000_000, "b")])
    assert scores[0] == pytest.approx(scores[1], abs=EXACT)


def checksum(prompts) -> np.ndarray:
    """A number for each prompt that depends on every token and its place: float32, a whole number."""
    return np.array(
        [sum(token * (place % 7 + 1) for place, token in enumerate(prompt)) for prompt in prompts], np.float32
    )


def checksum_step(params, batch) -> np.ndarray:
    del params
    pairs = zip(np.asarray(batch.tokens), np.asarray(batch.lengths), strict=True)
    return checksum([tokens[:length].tolist() for tokens, length in pairs])


def test_ten_thousand_documents_in_one_call(monkeypatch, model_folder):
    """The whole way of the documents; the model is replaced, which would take minutes here."""
    monkeypatch.setattr(prorank_jax.scorer, "make_score_step", lambda *_: checksum_step)
    reranker = Reranker.from_pretrained(str(model_folder))
    documents = [f"{number} store {'water ' * (number % 9)}" for number in range(9_000)]
    documents += documents[3_000:4_000]
    renderer = make_renderer(load_tokenizer(str(TOKENIZER)), max_length=256)
    expected = checksum(renderer.render_batch([(QUERY, document) for document in documents]))
    ranked = reranker.rank(QUERY, documents)
    assert [result.index for result in ranked] == np.argsort(-expected, kind="stable").tolist()
    assert [result.score for result in ranked] == np.sort(expected)[::-1].tolist()


def test_a_warm_up_compiles_for_short_texts_or_for_all(monkeypatch, model_folder):
    warmed: list[tuple[int, int]] = []
    monkeypatch.setattr(PairScorer, "warm_up", lambda _, *lengths: warmed.append(lengths))
    monkeypatch.setattr(prorank_jax.scorer, "make_score_step", lambda *_: checksum_step)
    reranker = Reranker.from_pretrained(str(model_folder))
    reranker.warm_up()
    reranker.warm_up(every_length=True)
    renderer = make_renderer(load_tokenizer(str(TOKENIZER)), max_length=256)
    least = len(renderer.render("", "")) + 1
    assert warmed[0][0] == least <= warmed[0][1] < least + 10
    assert warmed[1] == (least, 256)


def test_a_warm_up_for_all_lengths_is_one_for_shorter_instructions(monkeypatch, model_folder):
    warmed: list[tuple[int, int]] = []
    monkeypatch.setattr(PairScorer, "warm_up", lambda _, *lengths: warmed.append(lengths))
    monkeypatch.setattr(prorank_jax.scorer, "make_score_step", lambda *_: checksum_step)
    reranker = Reranker.from_pretrained(model_folder, instruction="prefer recent work")
    reranker.warm_up(every_length=True)
    plain = make_renderer(load_tokenizer(str(TOKENIZER)), max_length=256)
    assert warmed == [(len(plain.render("", "")) + 1, 256)]


@pytest.mark.parametrize("instruction", [32, True, b"find", ["a"]])
def test_an_instruction_that_is_no_text_is_refused(reranker, instruction):
    with pytest.raises(ValueError, match="instruction: "):
        reranker.predict(PAIRS, instruction=instruction)
    with pytest.raises(ValueError, match="instruction: "):
        reranker.rank(QUERY, DOCUMENTS, 3, False, instruction)


@pytest.mark.parametrize("source", [None, 5, b"folder"])
def test_a_source_that_names_nothing_is_refused(source):
    with pytest.raises(ValueError, match="source: "):
        Reranker.from_pretrained(source)


@pytest.mark.parametrize("dtype", [str, object])
def test_rows_of_an_array_are_pairs(reranker, dtype):
    """As `numpy` columns side by side, or the values of a data frame."""
    np.testing.assert_array_equal(reranker.predict(np.array(PAIRS, dtype)), reranker.predict(PAIRS))


def test_calibrated_scores_keep_the_order(reranker):
    scores = reranker.predict(PAIRS)
    probabilities = reranker.predict(PAIRS, calibrated=True)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-scores.astype(float))), atol=1e-5)
    np.testing.assert_array_equal(np.argsort(probabilities, kind="stable"), np.argsort(scores, kind="stable"))
    raw, calibrated = reranker.rank(QUERY, DOCUMENTS), reranker.rank(QUERY, DOCUMENTS, calibrated=True)
    assert [result.index for result in calibrated] == [result.index for result in raw]
    assert all(0 < result.score < 1 for result in calibrated)


def test_calibrate_fits_this_reranker_only(model_folder, reranker, monkeypatch):
    fitted = Reranker.from_pretrained(str(model_folder))
    labels = (fitted.predict(PAIRS) > np.median(fitted.predict(PAIRS))).astype(int)
    calibration = fitted.calibrate(PAIRS, labels)
    assert fitted.calibration is calibration
    assert reranker.calibration != calibration
    probabilities = fitted.predict(PAIRS, calibrated=True)
    assert probabilities[labels == 1].min() > probabilities[labels == 0].max()
    monkeypatch.setattr(
        reranker, "calibration", Calibration(slope=calibration.slope, intercept=calibration.intercept)
    )
    np.testing.assert_array_equal(reranker.predict(PAIRS, calibrated=True), probabilities)
    with pytest.raises(ValueError, match="do not rise"):
        fitted.calibrate(PAIRS, 1 - labels)
    monkeypatch.setattr(fitted, "predict", lambda *_: pytest.fail("scored before the labels were looked at"))
    with pytest.raises(ValueError, match="one for each pair"):
        fitted.calibrate(iter(PAIRS), labels[1:])
    assert fitted.calibration is calibration


def test_chunks_and_processes_that_render_change_no_bit(reranker):
    chunks = [PAIRS, PAIRS[:1], [], PAIRS[::-1] + PAIRS]
    expected = [reranker.score_pairs(chunk) for chunk in chunks]
    counted: list[int] = []
    with reranker.rendering_in(2):
        for number, scores in enumerate(reranker.score_chunks(iter(chunks), counted.append)):
            np.testing.assert_array_equal(scores, expected[number])
            assert sum(counted) == sum(map(len, chunks[: number + 1]))
    np.testing.assert_array_equal(reranker.score_pairs(PAIRS), expected[0])
    with pytest.raises(ValueError, match=r"document of pairs\[1\]"):
        list(reranker.score_chunks([PAIRS, [("query", "fine"), ("query", None)]]))


def test_progress_counts_every_pair_and_shows_only_where_it_should(reranker, capsys):
    counted: list[int] = []
    reranker.score_pairs(PAIRS * 2, counted.append)
    assert sum(counted) == 2 * len(PAIRS)
    reranker.predict(PAIRS * 40)
    assert capsys.readouterr() == ("", "")
    reranker.predict(PAIRS, show_progress=True)
    assert "scoring pairs" in capsys.readouterr().err
