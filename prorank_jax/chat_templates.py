"""What a model's chat format puts before and after the user's text, and which token ends an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prorank_jax.paired_template import own_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
# Every Qwen2, Qwen2.5 and Qwen3 vocabulary has the end of a turn here.
_QWEN_TURN_END_ID = 151645
_USER_TEXT, _ANSWER_TEXT = "prorank-user-text", "prorank-answer-text"
# A template that prints the date would give another prompt, and another score, every day: this is the
# day Llama 3 falls back to. A macro of the template's own hides transformers' function of that name.
_FIXED_DATE = "26 Jul 2024"
_DATE_FUNCTION = "strftime_now"
_FIXED_DATE_MACRO = f"{{% macro {_DATE_FUNCTION}(format) %}}{_FIXED_DATE}{{% endmacro %}}"


@dataclass(frozen=True)
class ChatFrame:
    """One user turn and the start of an answer.

    Attributes:
        prefix: everything before the user's text.
        suffix: everything after it, up to where the model's answer starts.
        end_token: id of the token that ends the answer.
    """

    prefix: str
    suffix: str
    end_token: int


def make_chat_frame(tokenizer: PreTrainedTokenizerFast, system: str = "") -> ChatFrame:
    """The chat format of a model.

    Qwen models get ChatML with Qwen's system sentence, as mxbai-rerank v2 was trained (for Qwen3 too:
    its empty `<think>` block is left out). Another model's own template is rendered around a stand-in
    text. Without a template: ChatML if the vocabulary has its tokens, else the bare text.

    Args:
        system: replaces the model's own system sentence; empty: the model's own.

    Raises:
        ValueError: the template cannot take these messages, or nothing ends an answer.
    """
    forged = [token for token in tokenizer.get_added_vocab() if token in system]
    if forged:
        raise ValueError(f"data.system={system!r}: holds the control token {forged[0]}; leave it out")
    if is_qwen(tokenizer):
        return _chatml(tokenizer, system or QWEN_SYSTEM)
    if tokenizer.chat_template:
        return _from_template(tokenizer, system)
    if {TURN_START, TURN_END} <= tokenizer.get_added_vocab().keys():
        return _chatml(tokenizer, system)
    return _bare(tokenizer, system)


def is_qwen(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer is of the Qwen family: by its class, its own template or its vocabulary."""
    return (
        type(tokenizer).__name__.startswith("Qwen")
        or "created by Alibaba Cloud" in own_part(str(tokenizer.chat_template or ""))
        or tokenizer.get_vocab().get(TURN_END) == _QWEN_TURN_END_ID
    )


def _chatml(tokenizer: PreTrainedTokenizerFast, system: str) -> ChatFrame:
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (TURN_START, TURN_END) if token not in vocabulary]
    if missing:
        raise ValueError(f"model.source: the tokenizer of this Qwen model has no token {missing[0]}")
    system_turn = f"{TURN_START}system\n{system}{TURN_END}\n" if system else ""
    return ChatFrame(
        prefix=f"{system_turn}{TURN_START}user\n",
        suffix=f"{TURN_END}\n{TURN_START}assistant\n",
        end_token=vocabulary[TURN_END],
    )


def _from_template(tokenizer: PreTrainedTokenizerFast, system: str) -> ChatFrame:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _USER_TEXT})
    prefix, suffix = _render_around(tokenizer, messages, _USER_TEXT, add_generation_prompt=True)
    answered = [*messages, {"role": "assistant", "content": _ANSWER_TEXT}]
    _, after_answer = _render_around(tokenizer, answered, _ANSWER_TEXT, add_generation_prompt=False)
    return ChatFrame(prefix, suffix, _end_token(tokenizer, after_answer))


def _render_around(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], stand_in: str, **options: Any
) -> tuple[str, str]:
    """What the model's template puts before and after the stand-in text."""
    try:
        template = tokenizer.get_chat_template()
        rendered = tokenizer.apply_chat_template(
            messages,
            chat_template=_FIXED_DATE_MACRO + template if _DATE_FUNCTION in template else template,
            tokenize=False,
            enable_thinking=False,  # an answer is one digit, with no thoughts before it
            date_string=_FIXED_DATE,
            **options,
        )
    except Exception as error:  # jinja's errors, and whatever the template raises itself
        remedy = "leave data.system empty" if messages[0]["role"] == "system" else "name another model"
        raise ValueError(f"model.source: its chat template failed ({error}); {remedy}") from error
    before, found, after = str(rendered).partition(stand_in)
    if not found or stand_in in after:
        raise ValueError("model.source: its chat template changes or repeats a message; name another model")
    return before, after


def _end_token(tokenizer: PreTrainedTokenizerFast, after_answer: str) -> int:
    following = tokenizer.encode(after_answer, add_special_tokens=False)
    if following and following[0] in tokenizer.get_added_vocab().values():
        return following[0]
    if tokenizer.eos_token_id is None:
        raise ValueError("model.source: its tokenizer names no end-of-text token, so no answer can end")
    return tokenizer.eos_token_id


def _bare(tokenizer: PreTrainedTokenizerFast, system: str) -> ChatFrame:
    """For base models: the text, and the answer on a line of its own."""
    prefix = (tokenizer.bos_token or "") + (f"{system}\n" if system else "")
    return ChatFrame(prefix, "\n", _end_token(tokenizer, ""))
