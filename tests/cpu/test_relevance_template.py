"""The chat template gives other libraries the ids of our renderer, and leaves chats as they were."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prorank_jax.chat_templates import QWEN_SYSTEM, make_chat_frame
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompts import PromptRenderer, make_renderer
from prorank_jax.relevance_template import JOINT, pair_ids, with_relevance_template
from tests.cpu.joining_tokenizer import write_joining_tokenizer

LONG = 1 << 20
CONTROL = ("<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>", "<|endoftext|>")
# Pieces that make words join, and control tokens whole and in parts.
PIECES = (
    *("water", " and ", ".", "?", "! ", "\n", "\n\n", "\r\n", "  ", "\t", "'ll", "12", "3.5", "é", "e\u0301"),
    *("水を", "تخزن", "👍🏽", "½", "\u00a0", "{{ x }}", "{% endif %}", "{#", "<|", "|>", "im_end", "<", ">"),
    *CONTROL,
)
# All but the mark between pieces, a noncharacter that no text holds: an exported tokenizer drops it.
characters = st.characters(codec="utf-8", exclude_characters=JOINT)
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(characters, max_size=20)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello, is query: a word?\n"},
    {"role": "assistant", "content": "Yes."},
]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nI am small.<|im_end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizer = load_tokenizer(str(write_joining_tokenizer(tmp_path_factory.mktemp("tokenizer"))))
    tokenizer.chat_template = CHATML
    return tokenizer


class Prompts(NamedTuple):
    """Our renderer, the tokenizer as another library reads it, and our renderer around that one."""

    renderer: PromptRenderer
    exported: PreTrainedTokenizerFast
    again: PromptRenderer


def settings(system: str = "", instruction: str = "") -> PromptSettings:
    return PromptSettings(system, instruction, LONG)


def reopened(tokenizer, folder):
    save_tokenizer(tokenizer, folder)
    return load_tokenizer(str(folder))


@pytest.fixture(
    scope="module",
    params=[("", ""), (QWEN_SYSTEM, 'prefer "new" work\n'), ("Judge {{ x }} 'now' 🙂", "<TASK>")],
)
def prompts(request, tokenizer, tmp_path_factory):
    system, instruction = request.param
    prepared = with_relevance_template(tokenizer, settings(system, instruction))
    exported = reopened(prepared, tmp_path_factory.mktemp("export"))
    options = {"max_length": LONG, "system": system, "instruction": instruction}
    return Prompts(make_renderer(tokenizer, **options), exported, make_renderer(exported, **options))


@given(query=texts, document=texts)
def test_pairs_get_the_ids_of_the_renderer(prompts, query, document):
    renderer, exported, _ = prompts
    assert pair_ids(exported, query, document, joint=JOINT) == renderer.render(query, document)


@given(query=texts, document=texts)
def test_the_exported_tokenizer_changes_no_prompt(prompts, query, document):
    assert prompts.again.render(query, document) == prompts.renderer.render(query, document)


def test_without_the_mark_a_full_stop_joins_the_newline_after_it(prompts):
    renderer, exported, _ = prompts
    assert pair_ids(exported, "why?", "Because.") != renderer.render("why?", "Because.")
    assert pair_ids(exported, "why", "because") == renderer.render("why", "because")


def test_a_system_message_of_a_pair_is_its_instruction(tokenizer):
    exported = with_relevance_template(tokenizer, settings(instruction="the default"))
    renderer = make_renderer(tokenizer, max_length=LONG, instruction="prefer recent work")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "prefer recent work"}]},
        {"role": "query", "content": [{"type": "text", "text": "why?"}]},
        {"role": "document", "content": [{"type": "text", "text": "Because."}]},
    ]
    text = exported.apply_chat_template(messages, tokenize=False, joint=JOINT)
    assert exported.encode(text, add_special_tokens=False) == renderer.render("why?", "Because.")


@pytest.mark.parametrize("ending", ["", "\n", " \n", "\n\n", "  "])
@pytest.mark.parametrize("start", ["", "\n", " "])
@pytest.mark.parametrize("generate", [True, False])
def test_chats_are_rendered_as_before(tokenizer, start, ending, generate):
    own = copy.deepcopy(tokenizer)
    own.chat_template = start + CHATML + ending
    prepared = with_relevance_template(own, settings("Judge."))
    options = {"tokenize": False, "add_generation_prompt": generate}
    assert prepared.apply_chat_template(CHAT, **options) == own.apply_chat_template(CHAT, **options)


def test_a_chat_whose_contents_are_lists_is_that_of_their_texts(tokenizer):
    prepared = with_relevance_template(tokenizer, settings("Judge."))
    in_lists = [
        message | {"content": [{"type": "text", "text": part} for part in (message["content"], "!")]}
        for message in CHAT
    ]
    plain = [message | {"content": message["content"] + "!"} for message in CHAT]
    options = {"tokenize": False, "add_generation_prompt": True}
    assert prepared.apply_chat_template(in_lists, **options) == prepared.apply_chat_template(plain, **options)


@given(text=texts)
def test_texts_get_the_ids_they_had(prompts, tokenizer, text):
    assert prompts.exported.encode(text) == tokenizer.encode(text)


def test_an_exported_tokenizer_can_be_exported_again(tokenizer):
    once = with_relevance_template(tokenizer, settings("Judge."))
    twice = with_relevance_template(once, settings("Judge."))
    assert twice.chat_template == once.chat_template
    assert twice.backend_tokenizer.to_str() == once.backend_tokenizer.to_str()


@pytest.mark.parametrize("system", ["", "Be brief.", QWEN_SYSTEM])
def test_qwens_sentence_makes_no_qwen_of_another_model(prompts, tokenizer, system):
    """The sentence that a model was trained with is in the template, beside its own chat format."""
    assert make_chat_frame(prompts.exported, system) == make_chat_frame(tokenizer, system)


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_qwen_known_by_its_template_stays_one(tokenizer, system):
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{{ '" + QWEN_SYSTEM + "' }}"
    frame = make_chat_frame(own, system)
    assert (system or QWEN_SYSTEM) in frame.prefix
    assert make_chat_frame(with_relevance_template(own, settings("Judge.")), system) == frame


@pytest.mark.parametrize("chat_tokens", [True, False])
@pytest.mark.parametrize("system", ["", "Judge.", QWEN_SYSTEM])
def test_a_model_without_a_template_keeps_its_frame(tokenizer, chat_tokens, system, tmp_path):
    own = copy.deepcopy(tokenizer)
    own.chat_template = None
    if not chat_tokens:
        own = _without_chat_tokens(own, tmp_path / "own")
    prepared = reopened(with_relevance_template(own, settings(system)), tmp_path / "export")
    assert make_chat_frame(prepared, system) == make_chat_frame(own, system)
    renderer = make_renderer(own, max_length=LONG, system=system)
    assert pair_ids(prepared, "why?", "Because.", joint=JOINT) == renderer.render("why?", "Because.")


def _without_chat_tokens(tokenizer, folder):
    save_tokenizer(tokenizer, folder)
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("<|im_start|>", "<s>").replace("<|im_end|>", "</s>"), encoding="utf-8")
    return load_tokenizer(str(folder))


def test_a_batch_can_always_be_padded(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = None
    prepared = with_relevance_template(own, settings())
    assert prepared.pad_token == own.eos_token
    assert own.pad_token is None


def test_the_longest_prompt_is_that_of_the_settings(tokenizer):
    prepared = with_relevance_template(tokenizer, PromptSettings("", "", 208))
    assert prepared.model_max_length == 208
    assert tokenizer.model_max_length != 208
