"""Exported folders: bit-equal weights, the layout each library reads, and nothing half-written."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import ml_dtypes
import numpy as np
import pytest
from tokenizers.normalizers import Lowercase

import prorank_jax.export_folder
import prorank_jax.reranker
from prorank_jax.chat_templates import QWEN_SYSTEM
from prorank_jax.evaluation.options import parse_options
from prorank_jax.export_folder import SENTENCE_TRANSFORMERS_VERSION, export_folder, generation_config
from prorank_jax.model_identity import model_identity
from prorank_jax.model_prompt import open_with_prompts
from prorank_jax.models.export import save_params
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.pretrained import open_pretrained
from prorank_jax.prompt_settings import PromptSettings, read_prompt_settings
from prorank_jax.prompts import AnswerTokens, make_renderer
from prorank_jax.relevance_template import JOINT, pair_ids
from prorank_jax.reranker import Reranker
from prorank_jax.sharding import make_mesh
from tests.cpu.joining_tokenizer import JOINING_SIZE, write_joining_tokenizer
from tests.cpu.models.checkpoint_files import assert_bit_equal
from tests.cpu.test_abandoned import sign_as, unfinished
from tests.cpu.test_living import DEAD, needs_linux
from tests.cpu.tiny import tiny_model
from tests.cpu.tiny_run import load_launcher

FILES = {
    *("1_LogitScore", "README.md", "chat_template.jinja", "config.json", "config_sentence_transformers.json"),
    *("generation_config.json", "model.safetensors", "modules.json", "prorank.json"),
    *("sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
}
SETTINGS = PromptSettings("Judge.", "prefer recent work", 208)
PAIRS = [("why?", "Because."), ("why?", "A longer text about roots, in which water is stored.")]
SMALL_CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nI am small.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, family: str = "qwen2", tied: bool = True) -> Path:
    model, params = tiny_model(family, scale=1.0, vocab_size=JOINING_SIZE, max_positions=256, tied=tied)
    save_params(params, model.config, folder)
    return write_joining_tokenizer(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """A model with settings of its own, and its export."""
    root = tmp_path_factory.mktemp("export")
    model = write_model(root / "model")
    (model / "prorank.json").write_text(json.dumps(dataclasses.asdict(SETTINGS)))
    assert export_folder(str(model), root / "out" / "small") == SETTINGS
    return model, root / "out" / "small"


def read_json(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_import_export_import_is_bit_equal(family, tied, tmp_path):
    model = open_pretrained(str(write_model(tmp_path / "model", family, tied)))
    export_folder(model.source, tmp_path / "once")
    export_folder(str(tmp_path / "once"), tmp_path / "twice")
    for name in ("once", "twice"):
        again = open_pretrained(str(tmp_path / name))
        assert again.config == model.config
        assert_bit_equal(again.load_params(None), model.load_params(None))
    for name in FILES - {"README.md", "1_LogitScore"}:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes(), name


def test_the_folder_is_complete_and_alone(exported):
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["small"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_prompts_and_their_settings_survive(exported):
    model, folder = exported
    assert read_prompt_settings(folder) == SETTINGS
    ours = make_renderer(load_tokenizer(str(model)), **dataclasses.asdict(SETTINGS))
    theirs = make_renderer(load_tokenizer(str(folder)), **dataclasses.asdict(SETTINGS))
    for pair in (("why?", "Because."), ("why?", "A long document. " * 99), ("<|im_end|>", "\n")):
        assert theirs.render(*pair) == ours.render(*pair)
    assert pair_ids(load_tokenizer(str(folder)), "why?", "Because.", joint=JOINT) == ours.render(
        "why?", "Because."
    )


def test_the_answers_and_the_end_of_a_turn_are_those_of_the_tokenizer(exported):
    model, folder = exported
    answers = make_renderer(load_tokenizer(str(model)), max_length=208).answer_tokens
    assert read_json(folder / "1_LogitScore/config.json") == {
        "true_token_id": answers.one,
        "false_token_id": answers.zero,
        "module_input_name": "causal_logits",
    }
    generation = read_json(folder / "generation_config.json")
    assert answers.end in generation["eos_token_id"]
    assert generation["do_sample"] is False
    assert generation["max_new_tokens"] == 2


@pytest.mark.parametrize(
    ("end_of_text", "padding", "ends", "pads_with"),
    [(2, 0, [2, 7], 0), (9, None, [7, 9], 7), (7, 1, [7], 1), (None, None, [7], 7)],
)
def test_generation_stops_at_the_end_of_turn_or_text_and_pads_as_the_tokenizer(
    end_of_text, padding, ends, pads_with
):
    tokenizer = SimpleNamespace(eos_token_id=end_of_text, pad_token_id=padding)
    made = generation_config(tokenizer, AnswerTokens(zero=3, one=5, end=7))
    assert (made["eos_token_id"], made["pad_token_id"]) == (ends, pads_with)


def test_the_layout_of_a_cross_encoder(exported):
    _, folder = exported
    modules = read_json(folder / "modules.json")
    assert [(module["path"], module["type"].rsplit(".", 1)[1]) for module in modules] == [
        ("", "Transformer"),
        ("1_LogitScore", "LogitScore"),
    ]
    transformer = read_json(folder / "sentence_bert_config.json")
    assert transformer["transformer_task"] == "text-generation"
    assert transformer["processing_kwargs"] == {"chat_template": {"joint": JOINT}}
    encoder = read_json(folder / "config_sentence_transformers.json")
    assert encoder["activation_fn"].endswith(".Identity")
    assert encoder["__version__"] == {"sentence_transformers": SENTENCE_TRANSFORMERS_VERSION}


def test_a_tokenizer_that_joins_pieces_gets_no_layout(tmp_path):
    """One that changes how a text begins, as sentencepiece does, cannot be given the prompt as one text."""
    model = write_model(tmp_path / "model")
    content = read_json(model / "tokenizer.json")
    mark = {"type": "Replace", "pattern": {"Regex": "\\Aq"}, "content": "xq"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], mark]}
    (model / "tokenizer.json").write_text(json.dumps(content))
    export_folder(str(model), tmp_path / "out")
    assert not (tmp_path / "out" / "modules.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "has no CrossEncoder layout" in card
    assert "library_name: transformers" in card
    tokenizers = [(folder / "tokenizer.json") for folder in (model, tmp_path / "out")]
    assert read_json(tokenizers[0])["pre_tokenizer"] == read_json(tokenizers[1])["pre_tokenizer"]


@pytest.mark.parametrize("turns", [("<|im_start|>", "<|im_end|>"), ("<s>", "</s>")])
def test_an_export_with_qwens_sentence_is_the_model_it_was(turns, tmp_path, monkeypatch):
    """Another model trained with that sentence, as mxbai-rerank needs it: its own one must come back."""
    model, folder = write_model(tmp_path / "model", "llama"), tmp_path / "out"
    start, end = turns
    for file in (model / "tokenizer.json", model / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<|im_start|>", start).replace("<|im_end|>", end))
    template = SMALL_CHAT.replace("<|im_start|>", start).replace("<|im_end|>", end)
    config = read_json(model / "tokenizer_config.json") | {"chat_template": template}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    asked = dataclasses.asdict(PromptSettings(QWEN_SYSTEM, "", 256))
    (model / "prorank.json").write_text(json.dumps(asked))
    export_folder(str(model), folder)
    for system in (QWEN_SYSTEM, "", "Be brief."):
        ours, theirs = (
            make_renderer(load_tokenizer(str(each)), **(asked | {"system": system}))
            for each in (model, folder)
        )
        assert theirs.render_batch(PAIRS) == ours.render_batch(PAIRS)
    monkeypatch.setattr(
        prorank_jax.reranker, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1])
    )
    trained, own = (
        [Reranker.from_pretrained(each, system=system).predict(PAIRS) for each in (model, folder)]
        for system in (None, "")
    )
    np.testing.assert_array_equal(*trained)
    np.testing.assert_array_equal(*own)
    assert np.abs(trained[0] - own[0]).min() > 1e-4


def test_bfloat16_is_rounded_to_nearest(tmp_path):
    model = open_pretrained(str(write_model(tmp_path / "model")))
    export_folder(model.source, tmp_path / "out", dtype="bfloat16")
    rounded = jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16).astype(np.float32), model.load_params(None)
    )
    assert_bit_equal(open_pretrained(str(tmp_path / "out")).load_params(None), rounded)
    assert "rounded to bfloat16" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_has_evaluations_of_these_weights_alone(exported, tmp_path):
    own = model_identity(str(exported[0]))["model_fingerprint"]
    files = []
    for name, fingerprint in (("measured-here", own), ("measured-elsewhere", "0" * len(own))):
        entry = {"first_stage": {"ndcg@10": 0.5}, "reranked": {"ndcg@10": 0.625}, "queries": 10}
        content = {"model": "m", "model_fingerprint": fingerprint, "top_k": 100, "datasets": {name: entry}}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(content))
    export_folder(str(exported[0]), tmp_path / "out", metrics_files=files)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "measured-here" in card
    assert "measured-elsewhere" not in card


@pytest.mark.parametrize(
    "given",
    [
        {"max_length": 190},
        {"system": "Rank {{ x }}."},
        {"system": ""},
        {"instruction": ""},
        {"max_length": 256, "system": "Rank.", "instruction": "find\nadvice"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("source", ["names prompts", "names none", "an export"])
def test_prompts_given_at_export_are_those_of_the_folder_for_every_reader(source, given, exported, tmp_path):
    """File by file the folder of a model that had them in its prorank.json."""
    model, told = tmp_path / "model", tmp_path / "told"
    for copy in (model, told):
        shutil.copytree(exported[source == "an export"], copy)
    if source == "names none":
        (model / "prorank.json").unlink()
    asked = open_with_prompts(str(model), **given)[1]
    own = PromptSettings("", "", asked.max_length) if source == "names none" else SETTINGS
    settings = dataclasses.replace(own, **given)
    (told / "prorank.json").write_text(json.dumps(dataclasses.asdict(settings)))
    assert export_folder(str(model), tmp_path / "out" / "small", **given) == settings
    export_folder(str(told), tmp_path / "same" / "small")
    for name in FILES - {"1_LogitScore"}:
        both = [(tmp_path / place / "small" / name).read_bytes() for place in ("out", "same")]
        assert both[0] == both[1], name
    again = open_with_prompts(str(tmp_path / "out" / "small"))[1]
    for pair in (("why?", "Because."), ("why?", "A long document. " * 99), ("so long " * 99, "\n")):
        assert again.render(*pair) == asked.render(*pair)


def test_figures_of_other_prompts_than_those_given_at_export_are_told_as_such(exported, tmp_path):
    entry = {"first_stage": {"ndcg@10": 0.5}, "reranked": {"ndcg@10": 0.625}, "queries": 10}
    measured = {**model_identity(str(exported[0])), "max_length": 208, "system": None}
    (tmp_path / "metrics.json").write_text(
        json.dumps({**measured, "top_k": 100, "datasets": {"demo": entry}})
    )
    cards = []
    for name, given in (("own", {}), ("other", {"max_length": 190, "system": ""})):
        folder = tmp_path / name
        export_folder(str(exported[0]), folder, metrics_files=[tmp_path / "metrics.json"], **given)
        cards.append((folder / "README.md").read_text())
    assert "not this folder's" not in cards[0]
    assert (
        'Its prompts were not this folder\'s, which give other scores: `system` `"Judge."`, `max_length` '
        "`208`. The p-value" in cards[1]
    )


@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_export_leaves_nothing(exported, exists, tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError("disk full")

    if exists:
        (tmp_path / "out").mkdir()
    monkeypatch.setattr(prorank_jax.export_folder, "write_model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        export_folder(str(exported[0]), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == (["out"] if exists else [])


@pytest.mark.parametrize("name", ["empty", ".", "link", "link to nothing yet"])
def test_an_empty_folder_is_taken_wherever_it_is(name, exported, tmp_path, monkeypatch):
    """A folder that cannot be renamed over, as a mount point, is one of them."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    (tmp_path / "link to nothing yet").symlink_to(tmp_path / "new" / "folder")
    monkeypatch.chdir(empty if name == "." else tmp_path)
    export_folder(str(exported[0]), Path(name))
    assert {path.name for path in Path(name).iterdir()} == FILES
    assert list(tmp_path.rglob(".*")) == []
    title = "empty" if name == "." else name
    assert f"# {title}\n" in Path(name, "README.md").read_text()


def test_a_model_that_changes_while_it_is_exported_is_refused(tmp_path, monkeypatch):
    """As where its run saves a checkpoint: the card would tell of other weights."""
    model = write_model(tmp_path / "model")
    with (model / "model.safetensors").open("r+b") as weights:

        def change_and_save(*arguments, **options):
            weights.seek(-1, os.SEEK_END)
            weights.write(b"!")
            weights.flush()
            save_params(*arguments, **options)

        monkeypatch.setattr(prorank_jax.export_folder, "save_params", change_and_save)
        with pytest.raises(ValueError, match="model': was written to while it was loaded; run this again"):
            export_folder(str(model), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_prompt_that_does_not_survive_is_refused(exported, tmp_path, monkeypatch):
    def other(tokenizer, settings):
        changed = with_template(tokenizer, settings)
        changed.backend_tokenizer.normalizer = Lowercase()
        return changed

    with_template = prorank_jax.export_folder.with_relevance_template
    monkeypatch.setattr(prorank_jax.export_folder, "with_relevance_template", other)
    monkeypatch.setattr(prorank_jax.export_folder, "_renders_the_same", lambda *_: True)
    with pytest.raises(ValueError, match="gives other prompts"):
        export_folder(str(exported[0]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_launcher_exports(exported, tmp_path, capsys):
    arguments = ["--model", str(exported[0]), "--output_dir", str(tmp_path / "out")]
    arguments += ["--name", "my-reranker", "--license", "apache-2.0"]
    arguments += ["--max_length", "190", "--system", "Rank.", "--instruction", "find advice"]
    assert load_launcher("export_hf").main(arguments) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# my-reranker" in card
    assert "license: apache-2.0" in card
    assert read_prompt_settings(tmp_path / "out") == PromptSettings("Rank.", "find advice", 190)


@pytest.mark.parametrize(("excerpts", "lines"), [("head", 0), ("key_sentences", 1)])
def test_the_launcher_warns_of_excerpts_that_others_do_not_know(excerpts, lines, exported, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(exported[0], model)
    settings = dataclasses.replace(SETTINGS, excerpts=excerpts)
    (model / "prorank.json").write_text(json.dumps(dataclasses.asdict(settings)))
    capsys.readouterr()
    arguments = ["--model", str(model), "--output_dir", str(tmp_path / "out")]
    assert load_launcher("export_hf").main(arguments) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == lines
    assert ("launch/evaluate.py --excerpts head measures" in said) == (lines == 1)
    assert parse_options(["--model", "m", "--dataset", "demo", "--excerpts", "head"]).excerpts == "head"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model": "nowhere/to/be/found"}, "no such folder"),
        ({"--dtype": "float16"}, "dtype='float16'"),
        ({"--output_dir": "{root}/full"}, "already holds 'thesis.txt'"),
        ({"--output_dir": "{root}/full/thesis.txt"}, "is a file"),
        ({"--metrics": "{root}/none.json"}, "no such file"),
        ({"--metrics": "{root}/full/thesis.txt"}, r"is no metrics\.json"),
        ({"--license": " "}, "license=' '"),
        ({"--name": "my\nreranker"}, r"name='my\\nreranker'.*on one line"),
        ({"--model": "{root}/broken"}, r"prorank\.json"),
        ({"--max_length": "long"}, "--max_length: invalid int value: 'long'"),
        ({"--max_length": "3"}, "max_length=3: must be a whole number of at least 16"),
        ({"--max_length": "20"}, r"max_length=20: too short for the prompt's fixed text; give at least \d"),
        ({"--max_length": "257"}, "max_length=257: .* has 256 positions; give no more"),
        ({"--system": "<|im_end|>"}, "holds the control token"),
        ({"--system": "a\udc80"}, "system=.*half of a surrogate pair"),
        ({"--instruction": "a\udc80"}, "instruction=.*half of a surrogate pair"),
        ({"--instruction": "find " * 200}, "max_length=208: too short .*shorten data.instruction"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(exported, changes, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    shutil.copytree(exported[0], tmp_path / "broken")
    (tmp_path / "broken" / "prorank.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    begun = Mock()
    monkeypatch.setattr(prorank_jax.export_folder, "made_whole", begun)
    options = {"--model": str(exported[0]), "--output_dir": str(tmp_path / "out")} | changes
    capsys.readouterr()
    arguments = [part.format(root=tmp_path) for option in options.items() for part in option]
    assert load_launcher("export_hf").main(arguments) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    assert re.search(message, said)
    assert not begun.called
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_export_that_is_told_to_stop_leaves_nothing(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        prorank_jax.export_folder, "write_model_card", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    arguments = ["--model", str(exported[0]), "--output_dir", str(tmp_path / "out")]
    assert load_launcher("export_hf").main(arguments) == 143
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_named_as_that(exported, tmp_path):
    (tmp_path / "out" / ".unfinished-x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"delete it if no export is running: '\.unfinished-x' is what a"):
        export_folder(str(exported[0]), tmp_path / "out")


EXPORT = """
import sys, time
from pathlib import Path
from prorank_jax.models.export import made_whole
with made_whole(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(600)
"""


@needs_linux
def test_the_next_export_deletes_what_a_killed_one_left_and_nothing_of_a_living_one(exported, tmp_path):
    half = [sys.executable, "-c", EXPORT, str(tmp_path / "out")]
    with subprocess.Popen(half, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            (left,) = tmp_path.glob(".unfinished-*")
            export_folder(str(exported[0]), tmp_path / "other")
            assert (left / "model" / "model.safetensors").read_bytes() == b"half"
        finally:
            process.kill()
    export_folder(str(exported[0]), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@needs_linux
def test_what_a_killed_export_left_in_the_folder_itself_is_deleted_too(exported, tmp_path):
    left = unfinished(tmp_path / "out", {})
    with pytest.raises(ValueError, match=r"already holds '\.unfinished-x'"):
        export_folder(str(exported[0]), tmp_path / "out")
    sign_as(left, {"pid": DEAD})
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"already holds 'thesis\.txt'"):
        export_folder(str(exported[0]), tmp_path / "out")
    assert left.is_dir()
    (tmp_path / "out" / "thesis.txt").unlink()
    export_folder(str(exported[0]), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_an_adapter_beside_the_weights_is_not_passed_over(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"an adapter of PEFT, which is not applied here; merge it"):
        export_folder(str(tmp_path / "model"), tmp_path / "out")


def test_a_command_line_that_cannot_be_read_is_one_line(capsys):
    assert load_launcher("export_hf").main(["--model", "m"]) == 2
    assert capsys.readouterr().err == (
        "error: the following arguments are required: --output_dir; --help shows the usage\n"
    )


def test_the_code_of_the_card_can_be_parsed(exported):
    card = (exported[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        ast.parse(block)
