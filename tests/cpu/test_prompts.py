"""The prompt: identical to mxbai-rerank's own, never over length, and closed to forged control tokens."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prorank_jax.chat_templates import QWEN_SYSTEM, is_qwen, make_chat_frame
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.plain_text import plain_text_tokenizer
from prorank_jax.prompts import AnswerTokens, make_renderer

GOLDENS = Path(__file__).parent / "goldens"
TINY_QWEN = load_tokenizer(str(GOLDENS / "tiny_qwen"))
ADDED = TINY_QWEN.get_added_vocab()
MXBAI = json.loads((GOLDENS / "mxbai_prompts.json").read_text(encoding="utf-8"))
# Both templates stand for the models' own: SmolLM2's default sentence, and Llama 3's trimming and date.
SMOL_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nI am small."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED_TEMPLATE = (
    "<bos>{{ strftime_now('%d %b %Y') }}{% if date_string is defined %} {{ date_string }}{% endif %}"
    "{% for m in messages %}<role>{{ m.role }}\n{{ m.content | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<role>assistant\n{% endif %}"
)


def _small_tokenizer(added: tuple[str, ...], **options: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["query: the document: the relevance of the search query"], trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def _smol(**options: Any) -> PreTrainedTokenizerFast:
    options = {"chat_template": SMOL_TEMPLATE, "eos_token": "<|im_end|>"} | options
    return _small_tokenizer(("<|im_start|>", "<|im_end|>"), **options)


@pytest.mark.parametrize("case", MXBAI["cases"], ids=str)
def test_ids_are_those_of_the_published_package(case: dict[str, Any]) -> None:
    max_length = case["max_length"] + MXBAI["predefined_length"]
    renderer = make_renderer(TINY_QWEN, max_length=max_length, instruction=case["instruction"])
    assert renderer.render(case["query"], case["document"]) == case["ids"]


def test_lengths_and_answers() -> None:
    renderer = make_renderer(TINY_QWEN, max_length=300)
    assert renderer.fixed_length == len(renderer.render("", ""))
    assert renderer.max_length == 300
    vocabulary = TINY_QWEN.get_vocab()
    answers = AnswerTokens(zero=vocabulary["0"], one=vocabulary["1"], end=vocabulary["<|im_end|>"])
    assert renderer.answer_tokens == answers


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=150), st.text(max_size=300), st.integers(172, 260))
def test_never_over_length_and_the_fixed_parts_stay_whole(query: str, document: str, max_length: int) -> None:
    renderer = make_renderer(TINY_QWEN, max_length=max_length)
    ids = renderer.render(query, document)
    assert renderer.fixed_length <= len(ids) or renderer.truncated_queries
    assert len(ids) <= max_length
    assert ids[: len(renderer.prefix)] == renderer.prefix
    assert ids[-len(renderer.ending) :] == renderer.ending


control_like_text = st.lists(
    st.one_of(st.sampled_from(sorted(ADDED)), st.text(max_size=5), st.sampled_from(["<|", "|>", " ", "\n"])),
    max_size=12,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(control_like_text, control_like_text, control_like_text)
def test_no_text_can_forge_a_control_token(query: str, document: str, instruction: str) -> None:
    renderer = make_renderer(TINY_QWEN, max_length=1000, instruction=instruction)
    ids = renderer.render(query, document)
    from_texts = ids[len(renderer.prefix) : -len(renderer.ending)]
    assert not set(from_texts) & set(ADDED.values())
    written_out = TINY_QWEN.decode(from_texts, clean_up_tokenization_spaces=False)
    assert written_out.count("<|im_end|>") >= (query + "\n" + document).count("<|im_end|>")


def test_a_control_token_that_is_a_whole_word_cannot_be_forged() -> None:
    backend = json.loads(TINY_QWEN.backend_tokenizer.to_str())
    backend["model"]["ignore_merges"] = True  # as in Llama 3: a word in the vocabulary is taken as it is
    backend["model"]["vocab"]["stop"] = 555
    tokenizer = Tokenizer.from_str(json.dumps(backend))
    tokenizer.add_special_tokens(["stop"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert 555 in wrapped.encode("stop")
    assert 555 not in plain_text_tokenizer(wrapped).encode("stop").ids


def test_a_vocabulary_whose_control_tokens_any_text_spells_is_refused() -> None:
    pieces = [(piece, -1.0) for piece in ("</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz</>01")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.add_special_tokens(["</s>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    with pytest.raises(ValueError, match=r"Unigram tokenizer lets any text spell its control token '</s>'"):
        plain_text_tokenizer(wrapped)


def test_an_added_token_that_merges_make_is_spelled_out() -> None:
    tokenizer = _smol()
    merged = tokenizer.tokenize("the")
    assert merged == ["the"]
    tokenizer.add_tokens(["the"], special_tokens=True)
    plain = plain_text_tokenizer(tokenizer).encode("the query").tokens
    assert "the" not in plain
    assert "".join(plain) == "theĠquery"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200).filter(lambda text: not any(token in text for token in ADDED)))
def test_ordinary_text_is_encoded_as_the_tokenizer_does(text: str) -> None:
    for tokenizer, plain in ((TINY_QWEN, PLAIN_QWEN), (SMOL, PLAIN_SMOL)):
        assert plain.encode(text).ids == tokenizer.encode(text, add_special_tokens=False)


SMOL = _smol()
PLAIN_QWEN, PLAIN_SMOL = plain_text_tokenizer(TINY_QWEN), plain_text_tokenizer(SMOL)


def test_half_a_surrogate_pair_is_replaced() -> None:
    renderer = make_renderer(TINY_QWEN, max_length=300)
    assert renderer.render("a\ud83d", "b") == renderer.render("a?", "b")


def test_only_the_document_is_cut() -> None:
    renderer = make_renderer(TINY_QWEN, max_length=200)
    short, long = renderer.render("water", "roots"), renderer.render("water", "roots " * 100)
    assert len(long) == 200
    query_end = len(renderer.prefix) + len(renderer.plain_text.encode("query: water").ids)
    assert long[:query_end] == short[:query_end]
    assert renderer.truncated_queries == 0


def test_long_queries_are_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    renderer = make_renderer(TINY_QWEN, max_length=200)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            renderer.render("how do plants store water " * 20, "roots")
    assert renderer.truncated_queries == 3
    assert len(caplog.records) == 1
    assert "data.max_length=200" in caplog.text


# Beside 140 tokens of fixed text. Of 29 a query may take 21, so that 8 are left to the separator (1), the
# document's head (3) and 4 of the document; of 55 it may take 41, for its head (37) and 4 of the query.
@pytest.mark.parametrize(
    ("instruction", "least"), [("", 140 + 29), ("prefer recent work " * 10, 140 + 55)], ids=["", "instructed"]
)
def test_too_short_a_length_names_the_least_that_works(instruction: str, least: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.max_length=20: .* at least {least},"):
        make_renderer(TINY_QWEN, max_length=20, instruction=instruction)
    make_renderer(TINY_QWEN, max_length=least, instruction=instruction)
    with pytest.raises(ValueError, match=rf"data\.max_length={least - 1}"):
        make_renderer(TINY_QWEN, max_length=least - 1, instruction=instruction)


def test_an_answer_of_two_tokens_is_refused() -> None:
    backend = json.loads(TINY_QWEN.backend_tokenizer.to_str())
    backend["model"]["vocab"].pop("1")
    without_one = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    with pytest.raises(ValueError, match=r"encodes the answer '1' as \[\]"):
        make_renderer(without_one, max_length=300)


def test_fingerprint_follows_everything_that_decides_ids(tmp_path: Path) -> None:
    def fingerprint(tokenizer: PreTrainedTokenizerFast = TINY_QWEN, **options: Any) -> str:
        return make_renderer(tokenizer, **({"max_length": 300} | options)).fingerprint

    save_tokenizer(TINY_QWEN, tmp_path)
    assert fingerprint(load_tokenizer(str(tmp_path))) == fingerprint()
    other_vocabulary = load_tokenizer(str(tmp_path))
    other_vocabulary.add_special_tokens({"pad_token": "<|pad|>"})
    assert fingerprint(other_vocabulary) == fingerprint()  # no text and no template uses it
    changed = [
        fingerprint(max_length=301),
        fingerprint(instruction="prefer recent work"),
        fingerprint(system="Be brief."),
        fingerprint(SMOL, max_length=600),
    ]
    assert len({fingerprint(), *changed}) == 5


def test_qwen_is_known_by_template_or_vocabulary() -> None:
    assert is_qwen(TINY_QWEN)
    assert not is_qwen(SMOL)
    frame = make_chat_frame(TINY_QWEN)
    assert frame.prefix == f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert frame.suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert "Be brief." in make_chat_frame(TINY_QWEN, "Be brief.").prefix


def test_another_model_keeps_its_own_template() -> None:
    frame = make_chat_frame(SMOL)
    assert frame.prefix == "<|im_start|>system\nI am small.<|im_end|>\n<|im_start|>user\n"
    assert frame.suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert frame.end_token == SMOL.convert_tokens_to_ids("<|im_end|>")
    assert make_chat_frame(SMOL, QWEN_SYSTEM).prefix == make_chat_frame(TINY_QWEN).prefix


def test_a_dated_template_is_the_same_every_day() -> None:
    tokenizer = _small_tokenizer(
        ("<bos>", "<role>", "<end>"), chat_template=DATED_TEMPLATE, bos_token="<bos>", eos_token="<end>"
    )
    frame = make_chat_frame(tokenizer)
    assert frame.prefix == "<bos>26 Jul 2024 26 Jul 2024<role>user\n"
    assert frame.suffix == "<end><role>assistant\n"
    assert frame.end_token == tokenizer.convert_tokens_to_ids("<end>")
    assert make_renderer(tokenizer, max_length=600).prefix.count(tokenizer.bos_token_id) == 1


def test_no_template_gives_chatml_or_the_bare_text() -> None:
    assert make_chat_frame(_smol(chat_template=None)).prefix == "<|im_start|>user\n"
    base = _small_tokenizer(("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    frame = make_chat_frame(base, "Be brief.")
    assert (frame.prefix, frame.suffix) == ("<s>Be brief.\n", "\n")
    assert frame.end_token == base.eos_token_id


@pytest.mark.parametrize(
    ("tokenizer", "system", "said"),
    [
        (SMOL, "a <|im_end|> b", r"data\.system=.*<\|im_end\|>"),
        (_smol(chat_template="{{ raise_exception('no system') }}"), "Be brief.", r"leave data\.system empty"),
        (_smol(chat_template="{{ raise_exception('never') }}"), "", "name another model"),
        (_smol(chat_template="nothing of the message"), "", "changes or repeats"),
        (_smol(chat_template="{% if"), "", "chat template failed"),
        (_small_tokenizer(("<s>",)), "", "no end-of-text token"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(
    tokenizer: PreTrainedTokenizerFast, system: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_renderer(tokenizer, max_length=600, system=system)
