"""Texts and records such as strangers send: control tokens, odd Unicode, markup, long lines, lies."""

from __future__ import annotations

import json
import random
from typing import Any

CONTROL_TOKENS = (
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|vision_start|>",
        "<tool_call>",
        "<think>",
        "</think>",
    ),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>", "<eos>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<s>", "</s>", "<pad>", "<unk>"),
)
ROLES = ("system\n", "user\n", "assistant\n", "1", "0", "query: ", "document: ", "instruction: ")
ODD_CHARACTERS = (
    *("\u202e", "\u202d", "\u2066", "\u2069", "\u200b", "\u200d", "\ufeff", "\u2028", "\u2029", "\ufdd0"),
    *(
        "\x00",
        "\x1b[31m",
        "\x7f",
        "\r",
        "\t",
        "\x85",
        "\ud800",
        "\udfff",
        "\ud83d",
        "\U0010ffff",
        "\U000e0001",
    ),
    *("e\u0301", "ﷺ", "\U0001d56c", "👩\u200d👩\u200d👧", "İ", "ß", "ǰ", "a\u0315\u0300\u05ae"),
)
MARKUP = (
    *("<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", "{{ 7*7 }}", "{% raw %}", "%s%n"),
    *("${jndi:ldap://x}", "'; DROP TABLE x;--", "[bold red]", "[/]", "../../etc/passwd", "\\\\host\\share"),
)
_PIECES = (CONTROL_TOKENS, ROLES, ODD_CHARACTERS, MARKUP)


def hostile_text(rng: random.Random) -> str:
    """Up to some hundred characters; one in a hundred texts is a very long line."""
    parts = []
    for _ in range(rng.randint(0, 12)):
        if rng.random() < 0.3:
            part = "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 6)))
        else:
            part = rng.choice(rng.choice(_PIECES))
        # A token cut in two, and joined again where a cleaner takes something out between.
        if rng.random() < 0.2 and len(part) > 2:
            cut = rng.randrange(1, len(part))
            part = part[:cut] + rng.choice(("", "\u200b", part, " ")) + part[cut:]
        parts.append(part)
    text = rng.choice(("", " ", "\n")).join(parts)
    return text * rng.randint(200, 2000) if rng.random() < 0.01 else text


def hostile_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value: texts, huge numbers, deep nesting."""
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 6:
        return [hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if kind == 7:
        names = ("_id", "text", "query", "documents", "top_n", "texts", hostile_text(rng))
        return {rng.choice(names): hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 4))}
    numbers = (0, -1, 2**63, -(2**80), 1e308, 10**400, 0.1)
    return rng.choice((hostile_text(rng), rng.choice(numbers), None, True, False, ""))


def hostile_json(rng: random.Random) -> bytes:
    """A line of JSON, or nearly."""
    if rng.random() < 0.02:
        return b"[" * rng.randint(10, 100_000)
    line = json.dumps(hostile_value(rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        line = line[: rng.randrange(len(line) + 1)]
    if rng.random() < 0.1:
        line = line.replace(b'"', rng.choice((b"'", b"\xff", b"NaN")), 1)
    return line
