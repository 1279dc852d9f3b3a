"""Several models side by side on one dataset, through the real evaluation."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from prorank_jax import evaluation_task
from prorank_jax.compare import COMPARISON_FILE, PICTURE_FILE, compare_models, parse_options
from prorank_jax.evaluate import evaluate
from prorank_jax.evaluation.options import parse_options as parse_evaluation
from prorank_jax.evaluation.output import RERANKED_RUN
from prorank_jax.reranker import Reranker
from tests.cpu.tiny_run import write_collection, write_model_folder

pytest.importorskip("ranx")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    write_model_folder(folder / "model")
    write_collection(folder / "collection")
    return folder


def arguments(workshop: Path, output_dir: Path) -> list[str]:
    model = workshop / "model"
    given = [f"one={model}", f"two words={model}", "--dataset", f"{workshop / 'collection'}:dev"]
    return [*given, "--top_k", "3", "--max_length", "200", "--output_dir", str(output_dir)]


def test_models_are_compared_on_the_same_candidates_and_nothing_is_scored_twice(
    workshop, tmp_path, monkeypatch
):
    options = parse_options(arguments(workshop, tmp_path / "out"))
    said = io.StringIO()
    content = compare_models(options, Console(file=said, width=120))
    assert [system["name"] for system in content["systems"]] == ["BM25", "one", "two words"]
    baseline, one, two = content["systems"]
    assert one["mean"] == two["mean"]  # the same model twice
    assert baseline["delta"] is None
    assert one["delta"] == pytest.approx(one["mean"] - baseline["mean"])
    metrics = json.loads((tmp_path / "out" / "one" / "metrics.json").read_text())
    entry = next(iter(metrics["datasets"].values()))
    assert one["mean"] == pytest.approx(entry["reranked"]["ndcg@10"])
    assert baseline["mean"] == pytest.approx(entry["first_stage"]["ndcg@10"])
    assert (tmp_path / "out" / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / COMPARISON_FILE).read_text()) == content
    assert "two words" in said.getvalue()

    def refuse(_self, chunks, _on_scored):
        assert not list(chunks), "scored again"
        yield from ()

    monkeypatch.setattr(Reranker, "score_chunks", refuse)
    assert compare_models(options, Console(file=io.StringIO())) == content
    fused = parse_options([*arguments(workshop, tmp_path / "out"), "--fusion", "rrf"])
    names = [system["name"] for system in compare_models(fused, Console(file=io.StringIO()))["systems"]]
    assert names == ["BM25", "one", "one, fused", "two words", "two words, fused"]


def test_a_model_is_tested_against_another_as_against_its_run(workshop, tmp_path):
    """`--baseline` says what `launch/evaluate.py --compare` says of the baseline's run file."""
    other, out = write_model_folder(tmp_path / "other", seed=1), tmp_path / "out"
    dataset = f"{workshop / 'collection'}:dev"
    shared = ["--dataset", dataset, "--top_k", "3", "--max_length", "200"]
    models = [f"one={workshop / 'model'}", f"two={other}"]
    said = io.StringIO()
    options = parse_options([*models, *shared, "--output_dir", str(out), "--baseline", "one"])
    content = compare_models(options, Console(file=said, width=80))
    bm25, one, two = content["systems"]
    assert (content["baseline"], one["to_baseline"]) == ("one", None)
    assert "to one" in said.getvalue()
    run = out / "one" / next(path.name for path in (out / "one").iterdir() if path.is_dir()) / RERANKED_RUN
    evaluation = [
        "--model",
        str(other),
        *shared,
        "--output_dir",
        str(tmp_path / "two"),
        "--compare",
        str(run),
    ]
    metrics = evaluate(parse_evaluation(evaluation), Console(file=io.StringIO()))
    compared = metrics["datasets"][dataset]["compared"]
    assert two["to_baseline"] == {name: compared[name] for name in two["to_baseline"]}
    assert two["to_baseline"]["delta"] != 0
    assert bm25["to_baseline"]["delta"] == pytest.approx(-one["delta"])
    assert two["metrics"] == metrics["datasets"][dataset]["reranked"]


def test_the_collection_is_read_and_ranked_once_for_all_models(workshop, tmp_path, monkeypatch):
    made = []

    def counted(name):
        make = getattr(evaluation_task, name)

        def count(*given, **more):
            made.append(name)
            return make(*given, **more)

        monkeypatch.setattr(evaluation_task, name, count)

    for name in ("load_collection", "make_first_stage"):
        counted(name)
    compare_models(parse_options(arguments(workshop, tmp_path / "out")), Console(file=io.StringIO()))
    assert made == ["load_collection", "make_first_stage"]


def write_unfinished_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    (folder / "model_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (["one=model", "two=modle"], [], "two: model.source='.*modle': no such folder or file"),
        (["one=model", "two=run"], [], "two: model='.*run': a run without a checkpoint"),
        (["one=model"], ["--max_length", "20"], "one: data.max_length=20: too short .*give at least"),
    ],
    ids=["mistyped", "unfinished", "too short"],
)
def test_a_model_that_cannot_be_evaluated_is_refused_before_any_is(models, more, said, workshop, tmp_path):
    shutil.copytree(workshop / "model", tmp_path / "model")
    write_unfinished_run(tmp_path / "run")
    given = [model.replace("=", f"={tmp_path}/") for model in models]
    given += ["--dataset", f"{workshop / 'collection'}:dev", "--output_dir", str(tmp_path / "out"), *more]
    with pytest.raises(ValueError, match=said):
        compare_models(parse_options(given), Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["model"], "write NAME=MODEL"),
        (["=model"], "write NAME=MODEL"),
        (["a=x", "a=y"], "the name 'a' is given twice"),
        (["a b=x", "a-b=y"], "two names give the folder 'a-b'"),
        (["comparison.json=x"], "'comparison.json' is a file of the comparison"),
        (["a=x", "a, fused=y", "--fusion", "rrf"], "'a, fused' is what a fusion is called"),
        (["BM25=x", "b=y"], "'BM25' is what the first stage is called"),
        (
            ["a=x", "--compare", __file__],
            r"this puts models side by side; .* --baseline, .* launch/evaluate.py --compare",
        ),
        (["a=x", "b=y", "--baseline", "c"], "baseline='c': no system .*; name one of 'BM25', 'a', 'b'"),
        (["a=x", "--baseline", "a, fused"], "baseline='a, fused': no system of this comparison"),
        (["a=x", "--top_k", "0"], "top_k=0: must be at least 1"),
        (["a=x", "--nonsense", "1"], "--help shows the usage"),
        (["a=x", "--first_stage", "nowhere.run"], "no such file"),
    ],
)
def test_what_cannot_be_compared(change, said):
    with pytest.raises(ValueError, match=said):
        parse_options([*change, "--dataset", "demo", "--output_dir", "out"])


def test_names_of_models_are_text_and_no_markup(workshop, tmp_path):
    model, said = workshop / "model", io.StringIO()
    given = [f"a[/b]={model}", f"base [old]={model}", "--dataset", f"{workshop / 'collection'}:dev"]
    given += ["--top_k", "3", "--max_length", "200", "--output_dir", str(tmp_path / "out")]
    compare_models(parse_options(given), Console(file=said, width=120))
    for name in ("a[/b]", "base [old]"):
        assert said.getvalue().count(name) == 2  # before its evaluation, and in the table


def test_the_comparison_on_another_dataset_is_not_overwritten(tmp_path):
    given = ["a=x", "--dataset", "demo", "--top_k", "7", "--output_dir", str(tmp_path)]
    for before in ({"dataset": "demo:dev"}, {"dataset": "demo", "top_k": 20}):
        (tmp_path / COMPARISON_FILE).write_text(json.dumps(before))
        with pytest.raises(ValueError, match=r"holds the comparison on 'demo.*'demo' \(top_k 7"):
            compare_models(parse_options(given))


def test_a_later_models_folder_of_another_evaluation_is_refused_before_any_is_measured(workshop, tmp_path):
    before = arguments(workshop, tmp_path / "out")
    compare_models(parse_options(before), Console(file=io.StringIO()))
    (tmp_path / "out" / COMPARISON_FILE).unlink()
    again = [f"new={workshop / 'model'}", *before, "--top_k", "2"]
    with pytest.raises(ValueError, match=r"one: .*belongs to another evaluation \(top_k is 3 there, 2 here"):
        compare_models(parse_options(again), Console(file=io.StringIO()))
    assert not (tmp_path / "out" / "new").exists()
    again = [f"new={workshop / 'model'}", *before, "--queries", "2"]
    with pytest.raises(ValueError, match=r"scores\.jsonl: .* \(queries is 12 there, 2 here, .*"):
        compare_models(parse_options(again), Console(file=io.StringIO()))
    assert not (tmp_path / "out" / "new").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"systems": []}'])
def test_a_damaged_comparison_is_named_before_any_model_is_evaluated(content, tmp_path):
    (tmp_path / COMPARISON_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"comparison\.json: is damaged; remove it"):
        compare_models(parse_options(["a=x", "--dataset", "demo", "--output_dir", str(tmp_path)]))
