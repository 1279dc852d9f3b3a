"""README.md of an exported model: how to use it, its prompt, its training, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prorank_jax.chat_templates import ChatFrame
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_to_dict, flatten
from prorank_jax.messages import without_folders
from prorank_jax.model_history import DatasetResult, Evaluation, RunHistory, RunRecord
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
from prorank_jax.prompts import (
    DOCUMENT_HEAD,
    INSTRUCTION_HEAD,
    QUERY_HEAD,
    SEPARATOR,
    TASK,
    AnswerTokens,
)
from prorank_jax.run_folder import write_text_atomically

CARD_FILE = "README.md"
PAPER = (
    "Xianming Li, Aamir Shakir, Rui Huang, Julius Lipp, Benjamin Clavié, Jing Li: "
    "*ProRank: Prompt Warmup via Reinforcement Learning for Small Language Models Reranking*, "
    "Findings of ACL 2026, [arXiv 2506.03487](https://arxiv.org/abs/2506.03487)."
)
# What decides nothing about the weights.
_UNTOLD = ("output_dir", "train.sample_every", "mesh.", "checkpoint.", "probe.")
_OF_OTHER_STAGE = {1: "ranking.", 2: "grpo."}
_PROBE_HEADINGS = {
    "format_rate": "format rate (greedy)",
    "accuracy": "accuracy (greedy)",
    "auc": "AUC of the score",
    "relevant_share": "share answered 1",
}


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells.

    Attributes:
        answers: token ids of the answers; `answer_names` are `0` and `1` as the vocabulary spells them.
        frame: what stands before and after the user's text.
        room: tokens for query, separator and document.
        renders_pairs: whether the folder's chat template renders pairs for other libraries.
    """

    model: ModelConfig
    settings: PromptSettings
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
        mxbai_usage(name, facts.frame, facts.room),
        pair_usage(name, facts.renders_pairs),
        vllm_usage(name, facts.model.family, facts.answer_names, facts.renders_pairs),
        "## Prompt",
        _prompt(facts),
        "## Training",
        _training(facts.history),
        "## Evaluation",
        _evaluations(facts.evaluations),
        "## Limitations",
        _limitations(facts),
        "## Citation",
        f"{PAPER}\n\nThe recipe is theirs, this model is not. It was made with prorank-jax.",
    ]
    return "\n\n".join(sections) + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; bars and line breaks inside a cell do not end it."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(headings), "|" + "---|" * len(headings), *map(line, rows)])


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
        else f"Weights are rounded to {facts.dtype}: scores differ slightly from those of the trained model."
    )
    stages = [str(record.config.stage) for record in facts.history.runs]
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


def _training(history: RunHistory) -> str:
    if not history.runs:
        return "No run of prorank-jax is known for these weights: they are as they were loaded."
    return "\n\n".join(_run(number, record) for number, record in enumerate(history.runs, start=1))


def _run(number: int, record: RunRecord) -> str:
    steps = record.config.train.steps
    title = f"### Run {number}: stage {record.config.stage}, {steps} steps"
    config = table(
        ("field", "value"), [(f"`{name}`", _shown(value)) for name, value in _told_fields(record.config)]
    )
    rows = [
        (heading, f"{record.before[name]:.3f}", f"{record.after[name]:.3f}")
        for name, heading in _PROBE_HEADINGS.items()
        if name in record.before and name in record.after
    ]
    if not rows:
        return f"{title}\n\nThe run left no report of held-out probes.\n\n{config}"
    examples = int(record.after.get("examples", 0))
    last = int(record.after.get("step", steps))
    probes = table(("held-out probe", "before", f"after {last} steps"), rows)
    return f"{title}\n\n{probes}\n\nThe probe has {examples} prompts, half of them relevant.\n\n{config}"


def _told_fields(config: RunConfig) -> list[tuple[str, Any]]:
    untold = (*_UNTOLD, _OF_OTHER_STAGE.get(config.stage, "\0"))
    return [
        (name, without_folders(value) if isinstance(value, str) else value)
        for name, value in flatten(config_to_dict(config)).items()
        if not name.startswith(untold)
    ]


def _shown(value: Any) -> str:
    return "" if value == "" else f"`{value}`"


def _evaluations(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "No evaluation was given when this folder was exported."
    return "\n\n".join(map(_evaluation, evaluations))


def _evaluation(evaluation: Evaluation) -> str:
    names = list(dict.fromkeys(name for result in evaluation.datasets for name in result.reranked))
    rows: list[list[str]] = []
    for result in evaluation.datasets:
        p_value = "" if result.p_value is None else f"{result.p_value:.4f}"
        subject = [without_folders(result.name), _measured_queries(result)]
        rows.append([*subject, "first stage", *_figures(result.first_stage, names), ""])
        rows.append([*subject, "reranked", *_figures(result.reranked, names), p_value])
    model = f" of `{without_folders(evaluation.model)}`" if evaluation.model else ""
    depth = f", top {evaluation.top_k} of the first stage reranked" if evaluation.top_k else ""
    return (
        f"Measured with `launch/evaluate.py`{model}{depth}. The p-value is of the difference to the first "
        "stage.\n\n" + table(("collection", "queries", "ranking", *names, "p"), rows)
    )


def _measured_queries(result: DatasetResult) -> str:
    if result.queries is None:
        return ""
    return f"{result.queries} of {result.sampled_from}" if result.sampled_from else str(result.queries)


def _figures(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in names]


def _limitations(facts: CardFacts) -> str:
    points = [
        "It judges with what it was trained on; other languages, domains and lengths were not measured "
        "unless a table above names them.",
        "A score orders documents; it is no probability. Scores of two models cannot be compared.",
        "A text that spells a control token of the chat format is plain text in prorank-jax. mxbai-rerank "
        "and vLLM let it act as that token.",
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
