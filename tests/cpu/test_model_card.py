"""The model card: figures only from what was measured, code and tables that Markdown can hold."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

import pytest
import yaml

from prorank_jax.card_history import NO_CARD, read_card_history
from prorank_jax.card_prompts import exported_otherwise
from prorank_jax.card_results import training_section
from prorank_jax.chat_templates import ChatFrame
from prorank_jax.config_files import load_config
from prorank_jax.model_card import CardFacts, model_card
from prorank_jax.model_history import RunHistory, RunRecord, read_evaluation, read_run_history
from prorank_jax.model_usage import MXBAI_FRAME
from prorank_jax.pretrained import Pretrained
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompts import AnswerTokens
from prorank_jax.run_folder import write_config, write_json
from prorank_jax.trained_on import card_splits
from tests.cpu.tiny import tiny_config

METRICS = {
    "datasets": {
        "beir/scifact/test": {
            "first_stage": {"ndcg@10": 0.69123, "recall@100": 0.9},
            "reranked": {"ndcg@10": 0.75456, "recall@100": 0.9},
            "delta": 0.06333,
            "p_value": 0.00123,
            "queries": 300,
        },
        "demo": {
            "first_stage": {"ndcg@10": 0.5},
            "reranked": {"ndcg@10": 0.25},
            "queries": 10,
            "sampled_from": 120,
        },
    },
    "model": "runs/stage2",
    "top_k": 100,
}
BEFORE = {"step": 0, "examples": 96, "format_rate": 0.125, "accuracy": 0.25, "auc": 0.4443}
AFTER = {"step": 56, "examples": 96, "format_rate": 1.0, "accuracy": 0.75, "auc": 0.7868}


def facts(**changes) -> CardFacts:
    values = {
        "model": tiny_config(),
        "settings": PromptSettings("", "", 224),
        "own": None,
        "answers": AnswerTokens(zero=15, one=16, end=2),
        "answer_names": ("0", "1"),
        "frame": ChatFrame(*MXBAI_FRAME, end_token=2),
        "room": 120,
        "history": RunHistory((), ""),
        "evaluations": (),
        "dtype": "float32",
        "license_id": "unknown",
        "renders_pairs": True,
    }
    return CardFacts(**values | changes)


def record(stage: int = 1, **fields) -> RunRecord:
    config = load_config(None, {"stage": stage, "train.steps": 56} | fields)
    return RunRecord(config, BEFORE, AFTER)


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def rows(card: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in card.splitlines() if "|" in line
    ]


def test_the_head_is_what_the_hub_reads():
    card = model_card("small", facts(history=RunHistory((), "Qwen/Qwen2.5-0.5B"), license_id="mit"))
    assert head(card) == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "license": "mit",
        "tags": ["reranker", "cross-encoder", "prorank", "jax"],
        "base_model": "Qwen/Qwen2.5-0.5B",
    }
    unknown = head(model_card("small", facts()))
    assert "base_model" not in unknown
    assert unknown["license"] == "unknown"


def test_nothing_is_told_that_was_not_measured():
    card = model_card("small", facts())
    assert "not trained" in card
    assert "No evaluation was given" in card
    assert "held-out probe" not in card
    assert "Not run when this folder was made" in card
    assert card.count(f"prompt has at most {facts().settings.max_length} tokens; vLLM does not") == 1


def test_the_runs_that_made_it():
    history = RunHistory((record(1), record(2, **{"model.source": "/home/me/runs/one"})), "")
    card = model_card("small", facts(history=history))
    assert "(stage 1, then stage 2)" in card
    first, second = card.split("### Run 2")
    assert ["format rate (greedy)", "0.125", "1.000"] in rows(first)
    assert ["AUC of the score", "0.444", "0.787"] in rows(second)
    assert "`grpo.group_size`" in first
    assert "`grpo." not in second
    assert ["`model.source`", "`one`"] in rows(second)
    assert "/home/me" not in card
    assert "`mesh." not in card


def test_what_is_made_from_an_export_tells_of_the_runs_before_it(tmp_path):
    trained = (record(1, **{"data.source": "a"}), record(2, **{"data.source": "b"}))
    card = model_card("one", facts(history=RunHistory(trained, "Qwen/Qwen2.5-0.5B")))
    (tmp_path / "README.md").write_text(card)
    exported = Pretrained(str(tmp_path), tmp_path, tiny_config(), None, None, None)
    history = read_run_history(exported)
    assert (history.runs, history.stages, history.base_model) == ((), ("1", "2"), "Qwen/Qwen2.5-0.5B")
    again = model_card("two", facts(history=history))
    settings = facts().settings
    known = training_section(RunHistory(trained, ""), settings, settings)
    assert training_section(history, settings, settings) == known
    assert "trained with prorank-jax (stage 1, then stage 2)" in again
    assert head(again)["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert card_splits(again) == [("a", "train"), ("b", "train")]

    (tmp_path / "README.md").write_text(again)
    further = dataclasses.replace(read_run_history(exported), runs=(record(2, **{"data.source": "c"}),))
    third = model_card("three", facts(history=further))
    assert "(stage 1, then stage 2, then stage 2)" in third
    assert re.findall("### Run ([0-9]): stage ([12])", third) == [("1", "1"), ("2", "2"), ("3", "2")]
    assert card_splits(third) == [("a", "train"), ("b", "train"), ("c", "train")]


def test_what_an_export_changed_of_the_prompts_is_told_by_the_exports_after_it(tmp_path):
    """The next one has the changed prompts for its own: nothing else tells what the runs had."""
    own = PromptSettings("Judge.", "", 224)
    sentence = exported_otherwise(own, facts().settings)
    card = model_card("one", facts(history=RunHistory((record(1),), ""), own=own))
    assert card.count(sentence) == 1
    (tmp_path / "README.md").write_text(card)
    history = read_run_history(Pretrained(str(tmp_path), tmp_path, tiny_config(), None, None, None))
    again = model_card("two", facts(history=history, own=facts().settings))
    assert again.count(sentence) == 1
    assert again.index("### Run 1") < again.index(sentence) < again.index("## Evaluation")
    assert sentence not in model_card("untrained", facts(own=own))


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# A model\n\n## Training\n\nOn the web.\n\n## Use\n",
        "---\n: [\n---\n## Training\n\n### Run 1",
    ],
)
def test_a_card_of_somebody_else_tells_of_no_runs(card, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert read_card_history(tmp_path) == NO_CARD
    assert read_card_history(tmp_path / "README.md") == NO_CARD


def test_a_run_without_a_report_says_so():
    unfinished = dataclasses.replace(record(), before={}, after={})
    assert "left no report" in model_card("small", facts(history=RunHistory((unfinished,), "")))


def test_evaluations_are_told_as_measured(tmp_path):
    options = {"compute_dtype": "bfloat16", "system": None, "instruction": "", "excerpts": "head"}
    write_json(tmp_path / "metrics.json", METRICS | options)
    card = model_card("small", facts(evaluations=(read_evaluation(tmp_path / "metrics.json"),)))
    assert "of `runs/stage2`, top 100 of the first stage" in card
    assert "reranked, `excerpts` `head`, `compute_dtype` `bfloat16`. " in card
    assert ["beir/scifact/test", "300", "first stage", "0.6912", "0.9000"] in [row[:5] for row in rows(card)]
    assert ["beir/scifact/test", "300", "reranked", "0.7546", "0.9000", "0.0012"] in rows(card)
    assert ["demo", "10 of 120", "reranked", "0.2500"] in [row[:4] for row in rows(card)]


def test_where_a_collection_lies_is_not_told(tmp_path):
    datasets = {"/home/me/data/scifact:dev": METRICS["datasets"]["demo"]}
    write_json(tmp_path / "metrics.json", METRICS | {"datasets": datasets, "model": "/home/me/stage2"})
    card = model_card("small", facts(evaluations=(read_evaluation(tmp_path / "metrics.json"),)))
    assert "home" not in card
    assert ["scifact:dev", "10 of 120", "reranked", "0.2500"] in [row[:4] for row in rows(card)]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"datasets": {}}', '{"datasets": {"a": 3}}'),
        '{"datasets": {"a": {"reranked": {}}}}',
        json.dumps(METRICS | {"top_k": "100"}),
        json.dumps(METRICS | {"model": None}),
        json.dumps(METRICS).replace("120", '"all"'),
        json.dumps(METRICS).replace("0.75456", "NaN"),
        json.dumps(METRICS).replace("0.75456", '"0.7"'),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json"):
        read_evaluation(tmp_path / "metrics.json")


def write_run(folder, source: str, report: dict | None, output_dir: str = ""):
    config = load_config(None, {"model.source": source, "output_dir": output_dir or str(folder)})
    folder.mkdir(parents=True)
    write_config(folder, config)
    write_json(folder / "model_config.json", tiny_config().to_hf())
    if report is not None:
        write_json(folder / "report.json", report)
    return config


def opened(folder, run) -> Pretrained:
    return Pretrained(str(folder), folder, tiny_config(), None, run, lambda shardings: shardings)


def test_the_history_goes_back_to_the_base_model(tmp_path):
    report = {"before": BEFORE, "after": AFTER, "model": "x"}
    write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", report)
    run = write_run(tmp_path / "two", str(tmp_path / "one"), None)
    history = read_run_history(opened(tmp_path / "two", run))
    assert [record.config.model.source for record in history.runs] == [
        "Qwen/Qwen2.5-0.5B",
        str(tmp_path / "one"),
    ]
    assert history.runs[0].after == AFTER
    assert history.runs[1].after == {}
    assert history.base_model == "Qwen/Qwen2.5-0.5B"


def write_checkpoint(folder, step: int) -> None:
    (folder / "checkpoints" / str(step)).mkdir(parents=True)


def test_a_probe_of_other_weights_is_not_told(tmp_path, caplog):
    """The newest checkpoint is another one where a later one was taken away."""
    run = write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", {"before": BEFORE, "after": AFTER | {"step": 4}})
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, steps=4))
    for step, told in ((2, False), (4, True)):
        write_checkpoint(tmp_path / "one", step)
        write_config(tmp_path / "one", run)
        card = model_card("small", facts(history=read_run_history(opened(tmp_path / "one", run))))
        assert ("AUC of the score" in card) is told
        assert ("after 4 steps" in card) is told
        assert ("### Run 1: stage 1, 2 of 4 steps" in card) is not told
        assert ("is left out of the card: the weights are those of step 2" in caplog.text) is not told
        caplog.clear()
    assert "### Run 1: stage 1, 4 steps" in card


def test_the_card_of_an_unfinished_run_counts_the_steps_it_made(tmp_path):
    run = write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", None)
    write_checkpoint(tmp_path / "one", 5)
    card = model_card("small", facts(history=read_run_history(opened(tmp_path / "one", run))))
    assert f"### Run 1: stage 1, 5 of {run.train.steps} steps" in card
    (tmp_path / "README.md").write_text(card)
    assert read_card_history(tmp_path).stages == ("1",)


def test_a_run_that_started_from_an_earlier_checkpoint_counts_the_steps_up_to_that(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "one", "Qwen/Qwen2.5-0.5B", {"before": BEFORE, "after": AFTER | {"step": 8}})
    for step in (5, 8):
        write_checkpoint(runs / "one", step)
    run = write_run(runs / "two", "runs/one@5", None, "runs/two")  # started beside `runs`
    history = read_run_history(opened(runs / "two", run))
    assert [record.step for record in history.runs] == [5, None]
    assert history.runs[0].after == {}  # of step 8
    assert history.base_model == "Qwen/Qwen2.5-0.5B"


def test_an_auc_that_was_no_number_is_not_told(tmp_path):
    report = {"before": BEFORE | {"auc": None}, "after": AFTER}
    run = write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", report)
    history = read_run_history(opened(tmp_path / "one", run))
    assert history.runs[0].before == {name: value for name, value in BEFORE.items() if name != "auc"}
    card = model_card("small", facts(history=history))
    assert "accuracy (greedy)" in card
    assert "AUC of the score" not in card


def test_the_auc_within_queries_is_told_where_both_probes_know_it(tmp_path):
    known, unknown = BEFORE | {"query_auc": 0.5}, BEFORE | {"query_auc": None}
    for name, before, is_told in (("a", known, True), ("b", unknown, False), ("c", BEFORE, False)):
        report = {"before": before, "after": AFTER | {"query_auc": 0.75}}
        run = write_run(tmp_path / name, "Qwen/Qwen2.5-0.5B", report)
        card = model_card("small", facts(history=read_run_history(opened(tmp_path / name, run))))
        assert ("| AUC within queries | 0.500 | 0.750 |" in card) == is_told


@pytest.mark.parametrize("before", [None, BEFORE | {"step": 2}])
def test_a_later_probe_is_not_told_as_the_one_before(before, tmp_path):
    """As an earlier version wrote it where the first was lost."""
    run = write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", {"before": before, "after": AFTER | {"step": 4}})
    card = model_card("small", facts(history=read_run_history(opened(tmp_path / "one", run))))
    assert "| held-out probe | after 4 steps |" in card
    assert f"| AUC of the score | {AFTER['auc']:.3f} |" in card


def test_a_history_ends_where_folders_are_gone_or_go_in_circles(tmp_path):
    run = write_run(tmp_path / "one", str(tmp_path / "gone"), None)
    assert read_run_history(opened(tmp_path / "one", run)).base_model == ""
    beside = write_run(tmp_path / "next", "runs/stage1", None)  # a run's own words for a folder gone since
    assert read_run_history(opened(tmp_path / "next", beside)).base_model == ""
    run = write_run(tmp_path / "loop", str(tmp_path / "loop"), None)
    assert len(read_run_history(opened(tmp_path / "loop", run)).runs) == 1


def test_relative_paths_are_those_of_the_folder_that_a_run_was_started_in(tmp_path, monkeypatch):
    """A card is often made elsewhere; `models/base` there is no model of the hub."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "models" / "base").mkdir(parents=True)
    write_run(home / "runs" / "one", "models/base", None, "runs/one")
    run = write_run(home / "runs" / "two", "runs/one", None, "runs/two/")
    # Another project's, with the same name.
    write_run(elsewhere / "runs" / "one", "Qwen/Qwen2.5-0.5B", None, "runs/one")
    for folder in (home, elsewhere):
        monkeypatch.chdir(folder)
        history = read_run_history(opened(home / "runs" / "two", run))
        assert [record.config.model.source for record in history.runs] == ["models/base", "runs/one"]
        assert history.base_model == ""


def test_a_damaged_report_is_named(tmp_path):
    run = write_run(tmp_path / "one", "Qwen/Qwen2.5-0.5B", {"before": 3})
    with pytest.raises(ValueError, match=r"report\.json"):
        read_run_history(opened(tmp_path / "one", run))


def test_the_package_prompt_of_mxbai_is_only_replaced_where_it_differs():
    assert "chat_template = {" not in model_card("small", facts())
    other = ChatFrame("<|im_start|>user\n", "<|im_end|>\n", end_token=2)
    assert "MxbaiRerankV2.chat_template = {" in model_card("small", facts(frame=other))


def test_mxbai_gets_the_instruction_that_the_model_was_trained_with():
    plain, asked = (PromptSettings("", text, 224, "head") for text in ("", "prefer 'recent' work"))
    card = model_card("small", facts(settings=asked))
    assert """predict(queries, documents, instruction="prefer 'recent' work")""" in card
    assert "predict(queries, documents)" in model_card("small", facts(settings=plain))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_vllm_command_is_json_in_quotes(family):
    card = model_card("small", facts(model=tiny_config(family)))
    command = card.split("```bash\n")[1].split("\n```")[0]
    overrides = json.loads(command.split("'")[1])
    assert overrides["architectures"] == [f"{family.capitalize()}ForSequenceClassification"]
    assert overrides["classifier_from_token"] == ["0", "1"]


def test_each_library_is_told_to_compute_in_float32():
    sections = model_card("small", facts(dtype="bfloat16")).split("### ")
    codes = {section.split("\n")[0]: section.split("```")[1] for section in sections if "```" in section}
    told = {
        "transformers": "from_pretrained('small', dtype=torch.float32)",
        "mxbai-rerank": 'torch_dtype="float32"',
        "sentence-transformers": 'model_kwargs={"dtype": "float32"}',
        "vLLM": "--dtype float32",
    }
    assert {library for library, words in told.items() if words in codes[library]} == set(told)


def test_transformers_projects_the_last_position_alone():
    """Of a prompt of 8192 tokens the logits of all positions would take gigabytes."""
    assert "logits_to_keep=1)" in model_card("small", facts())


def test_only_rounded_weights_need_the_word_of_rounded_logits():
    assert "logits are rounded too" in model_card("small", facts(dtype="bfloat16"))
    assert "logits are rounded" not in model_card("small", facts(dtype="float32"))


def test_the_vllm_command_serves_a_model_of_any_name():
    command = model_card("Jo's: a #1", facts()).split("```bash\n")[1].split("\n```")[0]
    assert shlex.split(command, comments=True)[:4] == ["vllm", "serve", "Jo's: a #1", "--runner"]


def test_the_card_tells_the_longest_prompt_and_not_the_room_in_it():
    assert "Longest prompt: 224 tokens, all included." in model_card("small", facts())


def test_the_card_says_how_documents_are_cut():
    plain = model_card("small", facts())
    assert "key_sentences" not in plain
    card = model_card("small", facts(settings=PromptSettings("", "", 224, "key_sentences")))
    assert "sentences that match the query best (`excerpts: key_sentences`)" in card


def test_texts_cannot_break_out_of_the_card():
    prompt = PromptSettings("Use ```code``` and ````more````", "a | b\nc", 224)
    frame = ChatFrame(f"{prompt.system}\n", "\n", end_token=2)
    card = model_card("small", facts(settings=prompt, frame=frame))
    assert "`````text\n" in card
