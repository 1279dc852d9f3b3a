"""README.md of an exported model: how to use it, its prompt, its training, and what was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prorank_jax.card_history import TRAINING_HEADING
from prorank_jax.card_results import evaluation_section, training_section
from prorank_jax.chat_templates import ChatFrame
from prorank_jax.model_history import Evaluation, RunHistory
from prorank_jax.model_usage import (
    MXBAI_FRAME,
    mxbai_usage,
    own_usage,
    pair_usage,
    transformers_usage,
    vllm_usage,
)
from prorank_jax.models.config import ModelConfig
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompt_template import DOCUMENT_HEAD, INSTRUCTION_HEAD, QUERY_HEAD, SEPARATOR, TASK
from prorank_jax.prompts import AnswerTokens
from prorank_jax.run_folder import write_text_atomically

CARD_FILE = "README.md"
PAPER = (
    "Xianming Li, Aamir Shakir, Rui Huang, Julius Lipp, Benjamin Clavié, Jing Li: "
    "*ProRank: Prompt Warmup via Reinforcement Learning for Small Language Models Reranking*, "
    "Findings of ACL 2026, [arXiv 2506.03487](https://arxiv.org/abs/2506.03487)."
)


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells.

    Attributes:
        settings: the prompts that the folder remembers.
        own: those that the model brought, from its run or from the folder that was exported; None: none.
        answers: token ids of the answers; `answer_names` are `0` and `1` as the vocabulary spells them.
        frame: what stands before and after the user's text.
        room: tokens for query, separator and document.
        renders_pairs: whether the folder's chat template renders pairs for other libraries.
    """

    model: ModelConfig
    settings: PromptSettings
    own: PromptSettings | None
    answers: AnswerTokens
    answer_names: tuple[str, ...]
    frame: ChatFrame
    room: int
    history: RunHistory
    evaluations: tuple[Evaluation, ...]
    dtype: str
    license_id: str
    renders_pairs: bool


def write_model_card(folder: Path, name: str, facts: CardFacts) -> None:
    """Writes README.md into `folder`."""
    write_text_atomically(folder / CARD_FILE, model_card(name, facts))


def model_card(name: str, facts: CardFacts) -> str:
    """The card as Markdown with a YAML head; every figure comes from `facts`."""
    sections = [
        _head(facts),
        f"# {name}",
        _introduction(facts),
        "## How to use",
        own_usage(name),
        transformers_usage(name, facts.frame, facts.settings, facts.answers, facts.room),
        mxbai_usage(name, facts.frame, facts.settings.instruction, facts.room),
        pair_usage(name, facts.renders_pairs),
        vllm_usage(
            name,
            facts.model.family,
            facts.answer_names,
            facts.renders_pairs,
            facts.settings.max_length,
        ),
        "## Prompt",
        _prompt(facts),
        TRAINING_HEADING,
        training_section(facts.history, facts.own, facts.settings),
        "## Evaluation",
        evaluation_section(facts.evaluations, facts.own, facts.settings),
        "## Limitations",
        _limitations(facts),
        "## Citation",
        f"{PAPER}\n\nThe recipe is theirs, this model is not. It was made with prorank-jax.",
    ]
    return "\n\n".join(sections) + "\n"


def _head(facts: CardFacts) -> str:
    fields: dict[str, Any] = {
        "library_name": "sentence-transformers" if facts.renders_pairs else "transformers",
        "pipeline_tag": "text-ranking",
        "license": facts.license_id,
        "tags": ["reranker", "cross-encoder", "prorank", "jax"],
    }
    if facts.history.base_model:
        fields["base_model"] = facts.history.base_model
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _introduction(facts: CardFacts) -> str:
    rounded = (
        "Weights are float32, bit for bit those that were exported."
        if facts.dtype == "float32"
        else f"Weights are rounded to {facts.dtype}: scores differ slightly from those of the trained model. "
        f"The code below computes in float32. In {facts.dtype}, which some libraries choose by themselves, "
        "logits are rounded too, to steps of 1/16 from 8 on and of 1/8 from 16 on: other scores, many equal."
    )
    stages = facts.history.stages
    trained = f"trained with prorank-jax (stage {', then stage '.join(stages)})" if stages else "not trained"
    return (
        f"A reranker: a {facts.model.family} language model of {facts.model.layers} layers, {trained}, that "
        "is asked whether a document is relevant to a query. "
        'Its score is `logit("1") - logit("0")` at the last position of the prompt: unbounded, higher is '
        f"more relevant. Nothing is added to the language model. {rounded}"
    )


def _prompt(facts: CardFacts) -> str:
    system, instruction = facts.settings.system, facts.settings.instruction
    line = f"{INSTRUCTION_HEAD}{instruction}{SEPARATOR}" if instruction else ""
    text = (
        f"{facts.frame.prefix}{line}{QUERY_HEAD}{{query}}{SEPARATOR}{DOCUMENT_HEAD}{{document}}{SEPARATOR}"
        f"{TASK}{facts.frame.suffix}"
    )
    fence = "`" * max(3, _longest_run(text, "`") + 1)
    told = f"`{json.dumps(system, ensure_ascii=False)}`" if system else "the model's own"
    return (
        f"System sentence: {told}. Longest prompt: {facts.settings.max_length} tokens, all included.\n\n"
        f"{fence}text\n{text}{fence if text.endswith(chr(10)) else chr(10) + fence}\n\n"
        "The texts before, between and after query and document are encoded apart, then joined. A query "
        f"takes at most three quarters of the room; then the document is cut, never the task. {_cut(facts)}"
        "`prorank.json` holds these settings."
    )


def _cut(facts: CardFacts) -> str:
    if facts.settings.excerpts == "head":
        return ""
    return (
        "Of a document that is too long, prorank-jax keeps its first words and the sentences that match the "
        "query best (`excerpts: key_sentences`); other libraries cut its end, which gives other scores. "
    )


def _limitations(facts: CardFacts) -> str:
    points = [
        "It judges with what it was trained on; other languages, domains and lengths were not measured "
        "unless a table above names them.",
        "A score orders documents; it is no probability. Scores of two models cannot be compared.",
        "A text that spells a control token of the chat format is plain text in prorank-jax. mxbai-rerank "
        "and vLLM let it act as that token. The code for transformers above leaves other added tokens that a "
        "text spells, such as `<tool_call>`, in one piece, where prorank-jax spells them out.",
    ]
    if (facts.frame.prefix, facts.frame.suffix) != MXBAI_FRAME:
        points.append("mxbai-rerank's own prompt is another one: set this model's as shown above.")
    return "\n".join(f"- {point}" for point in points)


def _longest_run(text: str, character: str) -> int:
    longest = run = 0
    for each in text:
        run = run + 1 if each == character else 0
        longest = max(longest, run)
    return longest
