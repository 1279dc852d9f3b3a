"""A chat template of two parts: one renders a query and a document, the other is the model's own."""

from __future__ import annotations

_PAIR_START = "{#- The relevance prompt of a query and a document, by prorank-jax. -#}\n"
# sentence-transformers gives one text as a message whose content is a list, which few chat formats take.
_CHAT_START = """\
{#- The model's own chat format. -#}{% else %}
{% set plain = namespace(messages=[]) %}
{% for message in messages %}
{% set content = message["content"] %}
{% if content is not string and content is iterable %}
{% set content = content | selectattr("type", "equalto", "text") | map(attribute="text") | join %}
{% endif %}
{% set plain.messages = plain.messages + [dict(message, content=content)] %}
{% endfor %}
{% set messages = plain.messages %}
"""
_CHAT_END = "{%+ endif %}"


def paired_template(pair: str, own: str) -> str:
    """One template of both parts.

    Args:
        pair: begins with the `if` that tells messages of a pair from a chat, and leaves it open.
        own: for all other messages.
    """
    return _PAIR_START + pair + _CHAT_START + own.removesuffix("\n") + _CHAT_END


def own_part(template: str) -> str:
    """The model's own part; all of a template that has no other."""
    if not template.startswith(_PAIR_START):
        return template
    return template.partition(_CHAT_START)[2].removesuffix(_CHAT_END)
