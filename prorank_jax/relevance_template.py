"""The relevance prompt as a chat template, for libraries that render a prompt as one text.

Libraries that score pairs (sentence-transformers, vLLM) hand a template two messages, of the roles `query`
and `document`, and tokenize what it renders as a whole. `PromptRenderer` encodes the pieces of a prompt one
by one, as mxbai-rerank does. The two differ where a piece ends: in the vocabulary of Qwen, a full stop and
the newline after it are one token. The template can therefore write a mark between two pieces, and the
tokenizer beside it ends a word at the mark and drops it. The mark is a noncharacter of Unicode, which no
text holds; for every other text the tokenizer gives the ids it gave before.

Tokenizers that were loaded without that step (transformers 5 rebuilds the one of Qwen2) would spell the mark
out, so that the template writes it only where its variable `joint` asks for it.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer, Sequence, Split

from prorank_jax.chat_templates import TURN_END, TURN_START, make_chat_frame
from prorank_jax.paired_template import own_part, paired_template
from prorank_jax.plain_text import plain_text_tokenizer
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompt_template import DOCUMENT_HEAD, INSTRUCTION_HEAD, QUERY_HEAD, SEPARATOR, TASK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

JOINT = "\ufdd0"
# A system message of a pair is its instruction: that is where sentence-transformers puts `prompt`.
_PAIR = """\
{%- if messages | selectattr("role", "equalto", "query") | list %}
{%- set joint = joint | default("") %}
{%- set said = namespace(query="", document="", system=<INSTRUCTION>) %}
{%- for message in messages %}
  {%- set text = namespace(plain=message["content"]) %}
  {%- if text.plain is not string %}
    {%- set text.plain = text.plain | selectattr("type", "equalto", "text") | map(attribute="text") | join %}
  {%- endif %}
  {%- if message["role"] == "query" %}{% set said.query = text.plain %}
  {%- elif message["role"] == "document" %}{% set said.document = text.plain %}
  {%- elif message["role"] == "system" %}{% set said.system = text.plain %}
  {%- endif %}
{%- endfor %}
{%- set instruction = <INSTRUCTION_HEAD> ~ said.system ~ <SEPARATOR> if said.system else "" %}
{%- set query = instruction ~ <QUERY_HEAD> ~ said.query %}
{%- set pair = namespace(query=query, document=<DOCUMENT_HEAD> ~ said.document) %}
{%- if joint %}
  {%- for start, end in <CONTROL_TOKENS> %}
    {%- set pair.query = pair.query | replace(start ~ end, start ~ joint ~ end) %}
    {%- set pair.document = pair.document | replace(start ~ end, start ~ joint ~ end) %}
  {%- endfor %}
{%- endif %}
{{- [<PREFIX>, pair.query, <SEPARATOR>, pair.document, <SEPARATOR>, <TASK>, <SUFFIX>] | join(joint) }}
"""
_CHATML = (
    f"{{% for message in messages %}}{{{{ '{TURN_START}' + message['role'] + '\\n' + message['content'] "
    f"+ '{TURN_END}' + '\\n' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{TURN_START}assistant\\n' }}}}{{% endif %}}"
)
_BARE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


def with_relevance_template(
    tokenizer: PreTrainedTokenizerFast, settings: PromptSettings
) -> PreTrainedTokenizerFast:
    """A copy of a model's tokenizer that also renders pairs, and cuts at `settings.max_length`.

    Messages of other roles are rendered as before. Where the model pads with nothing, the copy pads with
    its end-of-text token, because a batch must be padded with something.

    Raises:
        ValueError: the prompt cannot be made with this tokenizer; see `make_chat_frame`.
    """
    frame = make_chat_frame(tokenizer, settings.system)
    values: dict[str, Any] = {
        "INSTRUCTION": settings.instruction,
        "INSTRUCTION_HEAD": INSTRUCTION_HEAD,
        "SEPARATOR": SEPARATOR,
        "QUERY_HEAD": QUERY_HEAD,
        "DOCUMENT_HEAD": DOCUMENT_HEAD,
        "CONTROL_TOKENS": _split_control_tokens(tokenizer),
        "PREFIX": frame.prefix,
        "TASK": TASK,
        "SUFFIX": frame.suffix,
    }
    # In one pass: an instruction may well hold a text such as <TASK>.
    pair = re.sub("<([A-Z_]+)>", lambda found: json.dumps(values[found[1]], ensure_ascii=False), _PAIR)
    prepared = copy.deepcopy(tokenizer)
    prepared.chat_template = paired_template(pair, _own_template(tokenizer))
    prepared.model_max_length = settings.max_length
    if prepared.pad_token is None:
        prepared.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(frame.end_token)
    _end_words_at_joint(prepared.backend_tokenizer)
    return prepared


def pair_ids(tokenizer: PreTrainedTokenizerFast, query: str, document: str, **options: Any) -> list[int]:
    """What a library gets that renders a pair with the template and tokenizes it as one text."""
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _own_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """The model's template without ours around it, or one that says what `make_chat_frame` assumes."""
    if tokenizer.chat_template:
        return own_part(tokenizer.get_chat_template())
    if {TURN_START, TURN_END} <= tokenizer.get_added_vocab().keys():
        return _CHATML
    start = f"{{{{ {json.dumps(tokenizer.bos_token, ensure_ascii=False)} }}}}" if tokenizer.bos_token else ""
    return start + _BARE


def _split_control_tokens(tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    """Each control or added token in two parts, which a mark between them keeps from being that token."""
    plain = plain_text_tokenizer(tokenizer)

    def ids(text: str) -> list[int]:
        return plain.encode(text, add_special_tokens=False).ids

    def first_word_end(token: str) -> int:
        whole = ids(token)
        ends = range(1, len(token))
        return next((end for end in ends if ids(token[:end]) + ids(token[end:]) == whole), 1)

    tokens = sorted(token for token in tokenizer.get_added_vocab() if len(token) > 1)
    return [(token[: first_word_end(token)], token[first_word_end(token) :]) for token in tokens]


def _end_words_at_joint(tokenizer: Tokenizer) -> None:
    steps: dict[str, Any] = json.loads(tokenizer.to_str())
    if JOINT in json.dumps(steps["pre_tokenizer"], ensure_ascii=False):
        return
    ends_at_joint: list[PreTokenizer] = [Split(JOINT, "removed")]
    existing = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = Sequence(ends_at_joint + ([existing] if existing is not None else []))
