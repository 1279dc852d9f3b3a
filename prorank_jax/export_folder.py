"""Exports a trained model as a folder that other libraries load: weights, tokenizer, prompt, model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from prorank_jax.abandoned import is_abandoned
from prorank_jax.chat_templates import make_chat_frame
from prorank_jax.config_checks import require_choice
from prorank_jax.model_card import CardFacts, write_model_card
from prorank_jax.model_history import Evaluation, evaluations_of, read_evaluation, read_run_history
from prorank_jax.model_identity import check_unchanged, model_identity
from prorank_jax.model_prompt import own_settings, prompt_settings_of
from prorank_jax.models.export import EXPORT_DTYPES, made_whole, save_params
from prorank_jax.models.tokenizer import load_tokenizer, save_tokenizer
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.models.weights import host_sharding
from prorank_jax.pretrained import Pretrained, open_pretrained
from prorank_jax.processes import has_peers
from prorank_jax.prompt_settings import SETTINGS_FILE, PromptSettings, check_whole, read_prompt_settings
from prorank_jax.prompts import AnswerTokens, PromptRenderer, make_renderer
from prorank_jax.relevance_template import JOINT, pair_ids, with_relevance_template
from prorank_jax.run_folder import UNFINISHED, write_json
from prorank_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The first release that puts the end of a prompt back after it cut a long document.
SENTENCE_TRANSFORMERS_VERSION = "5.6.0"
LOGIT_SCORE_FOLDER = "1_LogitScore"
# transformers 5 rebuilds the tokenizer of Qwen2 from its vocabulary and loses the step that ends words at
# the template's marks; the families registered with the plain fast tokenizer, as this one, are read as saved.
_PLAIN_TOKENIZER_FAMILY = "glm4"
# A length no sample reaches, so that nothing is cut.
_ENDLESS = 1 << 20
# What texts end, begin and are made of decides where a tokenizer joins two pieces of a prompt.
_SAMPLES = (
    ("how do plants store water?", "Roots store water. Leaves lose it."),
    ("", ""),
    (" two  blanks  ", "\n\nlines\r\n\ttabs \n"),
    ("WE'LL pay 12.50€ (x²=½)!?", "水を 저장 تخزن क्या e\u0301 👍🏽 <|im_end|>\n"),
)


def export_folder(
    source: str,
    output_dir: Path,
    *,
    dtype: str = "float32",
    metrics_files: Sequence[Path] = (),
    name: str = "",
    license_id: str = "unknown",
    max_length: int | None = None,
    system: str | None = None,
    instruction: str | None = None,
) -> PromptSettings:
    """Writes a model as a folder for transformers, mxbai-rerank, sentence-transformers and vLLM.

    The folder is complete or not there. It is opened once more before it takes its name: its prompts must
    be, id for id, those of `source`.

    Args:
        source: as `open_pretrained` takes it.
        output_dir: a new or an empty folder.
        dtype: `float32` (bit-equal to the model) or `bfloat16` (rounded).
        metrics_files: results of evaluations, as `read_evaluation` takes them; those of other weights, e.g.
            of an earlier checkpoint, are left out with a warning.
        name: what the model card calls the model; empty: the folder's name.
        license_id: for the model card, an identifier such as `apache-2.0`.
        max_length, system, instruction: of the prompts that the folder remembers; None: the model's own.

    Returns:
        The prompt settings that were written.

    Raises:
        ValueError: a wrong argument, prompts that the model cannot have, no such model, one that changes
            meanwhile, or a folder that holds something; or jax sees processes that have not met.
    """
    _check_arguments(output_dir, dtype, license_id, name)
    evaluations = tuple(read_evaluation(file) for file in metrics_files)
    identity = model_identity(source)
    model = open_pretrained(source)
    evaluations = evaluations_of(source, evaluations)
    settings = prompt_settings_of(model, max_length=max_length, system=system, instruction=instruction)
    check_whole("instruction", settings.instruction)
    renderer = make_renderer(model.tokenizer, **asdict(settings))
    prepared = with_relevance_template(model.tokenizer, settings)
    renders_pairs = _renders_the_same(prepared, model.tokenizer, settings)
    has_peers()  # the workers of a pod that were started by hand would wait for one another
    with made_whole(output_dir) as folder:
        save_params(_params_on_host(model), model.config, folder, dtype=dtype)
        save_tokenizer(prepared if renders_pairs else model.tokenizer, folder)
        write_json(folder / SETTINGS_FILE, asdict(settings))
        write_json(
            folder / "generation_config.json", generation_config(model.tokenizer, renderer.answer_tokens)
        )
        if renders_pairs:
            _write_sentence_transformers_layout(folder, renderer.answer_tokens)
        facts = _card_facts(model, settings, renderer, evaluations, dtype, license_id, renders_pairs)
        write_model_card(folder, name or output_dir.absolute().name, facts)
        _check_prompts_survive(folder, model.tokenizer, settings)
        check_unchanged(source, identity)
    return settings


def _params_on_host(model: Pretrained) -> Params:
    """The parameters where a model has room that is larger than an accelerator."""
    shapes, where = nn.unbox(abstract_params(Transformer(model.config))), host_sharding()
    return model.load_params(jax.tree.map(lambda _: where, shapes))


def generation_config(tokenizer: PreTrainedTokenizerFast, answers: AnswerTokens) -> dict[str, Any]:
    """A `generation_config.json` that lets the model give its answer, `0` or `1`, and stop."""
    ends = {answers.end, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    padding = answers.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {
        "do_sample": False,
        "eos_token_id": sorted(ends),
        "max_new_tokens": 2,
        "pad_token_id": padding,
    }


def _check_arguments(output_dir: Path, dtype: str, license_id: str, name: str | None) -> None:
    require_choice("dtype", dtype, tuple(EXPORT_DTYPES))
    if not license_id.strip() or not _is_one_line(license_id):
        raise ValueError(f"license={license_id!r}: name one licence, e.g. apache-2.0")
    if name and not _is_one_line(name):
        raise ValueError(f"name={name!r}: it is the card's heading; write it on one line")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir={str(output_dir)!r}: is a file; name a folder")
    found = output_dir.iterdir() if output_dir.is_dir() else []
    there = sorted(path.name for path in found if not is_abandoned(path))
    if there:
        killed = f", or delete it if no export is running: {there[0]!r} is what a killed one left"
        remedy = f"name a new or empty folder{killed if there[0].startswith(UNFINISHED) else ''}"
        raise ValueError(f"output_dir={str(output_dir)!r}: already holds {there[0]!r}; {remedy}")


def _is_one_line(text: str) -> bool:
    return text.splitlines() == [text]


def _renders_the_same(
    prepared: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast, settings: PromptSettings
) -> bool:
    """Whether the template gives the ids of a renderer that cuts nothing."""
    uncut = make_renderer(tokenizer, **{**asdict(settings), "max_length": _ENDLESS})
    return all(pair_ids(prepared, *pair, joint=JOINT) == uncut.render(*pair) for pair in _SAMPLES)


def _write_sentence_transformers_layout(folder: Path, answers: AnswerTokens) -> None:
    """The layout of a sentence-transformers `CrossEncoder` around a language model."""
    modules = (
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        (LOGIT_SCORE_FOLDER, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    )
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    logits = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": logits, "message": {**logits, "format": "structured"}},
            "module_output_name": "causal_logits",
            "processor_kwargs": {"tokenizer_type": _PLAIN_TOKENIZER_FAMILY},
            "processing_kwargs": {"chat_template": {"joint": JOINT}},
        },
    )
    (folder / LOGIT_SCORE_FOLDER).mkdir()
    write_json(
        folder / LOGIT_SCORE_FOLDER / "config.json",
        {
            "true_token_id": answers.one,
            "false_token_id": answers.zero,
            "module_input_name": "causal_logits",
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": SENTENCE_TRANSFORMERS_VERSION},
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {},
            "default_prompt_name": None,
        },
    )


def _card_facts(
    model: Pretrained,
    settings: PromptSettings,
    renderer: PromptRenderer,
    evaluations: Sequence[Evaluation],
    dtype: str,
    license_id: str,
    renders_pairs: bool,
) -> CardFacts:
    return CardFacts(
        model=model.config,
        settings=settings,
        own=own_settings(model),
        answers=renderer.answer_tokens,
        answer_names=tuple(
            model.tokenizer.convert_ids_to_tokens([renderer.answer_tokens.zero, renderer.answer_tokens.one])
        ),
        frame=make_chat_frame(model.tokenizer, settings.system),
        room=renderer.room,
        history=read_run_history(model),
        evaluations=tuple(evaluations),
        dtype=dtype,
        license_id=license_id,
        renders_pairs=renders_pairs,
    )


def _check_prompts_survive(
    folder: Path, tokenizer: PreTrainedTokenizerFast, settings: PromptSettings
) -> None:
    # Nothing is cut: that would be told of, and these queries are nobody's.
    uncut = {**asdict(settings), "max_length": _ENDLESS}
    reopened, renderer = (make_renderer(each, **uncut) for each in (load_tokenizer(str(folder)), tokenizer))
    same = reopened.answer_tokens == renderer.answer_tokens and all(
        reopened.render(*pair) == renderer.render(*pair) for pair in _SAMPLES
    )
    if not same or read_prompt_settings(folder) != settings:
        raise ValueError(
            "model.source: the exported tokenizer gives other prompts than the model's own; "
            f"this model cannot be exported with system={settings.system!r}, give another"
        )
