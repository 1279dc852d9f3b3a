"""The evaluation from its command line to its files, with a fake model."""

from __future__ import annotations

import gc
import itertools
import json
import re
import shutil
import weakref
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import pytrec_eval
from rich.console import Console

from prorank_jax import evaluate as module
from prorank_jax.corpora import load_collection
from prorank_jax.evaluate import evaluate
from prorank_jax.evaluation.options import EvaluationOptions, parse_options
from prorank_jax.evaluation.page import sections_of
from prorank_jax.model_identity import model_identity
from prorank_jax.run_folder import only_run_in
from prorank_jax.score_origin import this_code_and_devices
from prorank_jax.trec import read_run, write_run
from tests.cpu.data_fixtures import write_beir_folder
from tests.cpu.evaluation.collections import hash_score
from tests.cpu.run_like_folder import fingerprint_of_before, write_run_folder
from tests.cpu.tiny_run import load_launcher


class FakeReranker:
    """Stands in for `Reranker`: opened like it, scores by hash, stops like Ctrl-C when told to."""

    opened: list[tuple[str, dict]] = []  # noqa: RUF012 - emptied by the fixture
    scored = 0
    stop_after: int | None = None
    own_excerpts = "head"

    def __init__(self, max_length: int | None) -> None:
        self.max_length = max_length or 64
        self.excerpts = type(self).own_excerpts

    @classmethod
    def from_pretrained(cls, source, **options):
        cls.opened.append((source, options))
        return cls(options["max_length"])

    def score_chunks(self, chunks, on_scored):
        for pairs in chunks:
            if type(self).stop_after is not None and type(self).scored >= type(self).stop_after:
                raise KeyboardInterrupt
            type(self).scored += len(pairs)
            on_scored(len(pairs))
            yield np.array([hash_score(pair) for pair in pairs], np.float32)

    def rendering_in(self, processes):
        type(self).processes.append(processes)
        return nullcontext()


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(module, "Reranker", FakeReranker)
    monkeypatch.setattr(module, "CHUNK_PAIRS", 10)
    monkeypatch.setattr(module, "BATCHES_PER_CHUNK", 0)
    FakeReranker.opened, FakeReranker.scored, FakeReranker.stop_after = [], 0, None
    FakeReranker.processes = []
    return FakeReranker


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A model that is one file, and two collections in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    write_beir_folder(tmp_path / "one", queries=10, split="test")
    write_beir_folder(tmp_path / "two", queries=4, split="dev")
    return tmp_path


ARGUMENTS = ["--model", "model", "--dataset", "one", "two:dev", "--output_dir", "out"]


def run(*more: str) -> dict:
    return evaluate(parse_options([*ARGUMENTS, *more]), Console(file=StringIO(), width=80))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(folder: Path) -> dict[str, bytes]:
    kept = {}
    for name, data in content_of(folder).items():
        if not name.endswith(".html"):
            kept[name] = re.sub(rb'"(seconds|pairs_per_second)": [0-9.e-]+', b"", data)
    return kept


@pytest.mark.usefixtures("workshop")
def test_processes_render_beside_an_accelerator_or_where_they_are_asked_for(fake, monkeypatch):
    run()
    monkeypatch.setattr(module.jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(module, "useful_processes", lambda is_accelerated: 5 if is_accelerated else 0)
    run()
    run("--render_processes", "3")
    assert fake.processes == [0, 5, 3]
    with pytest.raises(ValueError, match="render_processes=-1"):
        run("--render_processes", "-1")


def test_what_an_evaluation_writes(workshop, fake):
    returned = run()
    out = workshop / "out"
    content = json.loads((out / "metrics.json").read_text())
    assert content == returned
    assert set(content["datasets"]) == {"one", "two:dev"}
    for entry in content["datasets"].values():
        assert {"first_stage", "reranked", "delta", "p_value"} <= set(entry)
        assert set(entry["first_stage"]) == {"ndcg@10", "map", "mrr@10", "recall@100", "precision@10"}
    assert content["average"]["delta"] == pytest.approx(
        np.mean([entry["delta"] for entry in content["datasets"].values()])
    )
    assert {path.name for path in out.iterdir()} == {
        ".lock", "evaluation.json", "metrics.json", "one", "report.html", "two-dev",
    }  # fmt: skip
    for name, folder, queries in (("one", "one", 10), ("two:dev", "two-dev", 4)):
        assert {path.name for path in (out / folder).iterdir()} == {
            "first_stage.trec", "queries.jsonl", "reranked.trec", "scores.jsonl",
        }  # fmt: skip
        records = [json.loads(line) for line in (out / folder / "queries.jsonl").read_text().splitlines()]
        assert len(records) == content["datasets"][name]["queries"] == queries
        assert sorted(read_run(out / folder / "reranked.trec")) == sorted(r["query"] for r in records)
    assert "two:dev" in (out / "report.html").read_text()
    assert fake.opened == [
        (
            "model",
            {
                "max_length": None,
                "instruction": None,
                "system": None,
                "excerpts": None,
                "batch_size": 32,
                "compute_dtype": "float32",
                "attention": "xla",
                "share_prefixes": True,
            },
        )
    ]


@pytest.mark.usefixtures("fake")
def test_a_collection_at_a_url_is_measured_as_the_folder_is(workshop, monkeypatch):
    monkeypatch.setenv("PRORANK_CACHE", str(workshop / "cache"))
    here = run()["datasets"]["two:dev"]
    url = f"file://{workshop / 'two'}:dev"
    options = parse_options(["--model", "model", "--dataset", url, "--output_dir", "by_url"])
    there = evaluate(options, Console(file=StringIO(), width=80))["datasets"][url]
    times = ("seconds", "pairs_per_second")
    assert {n: v for n, v in there.items() if n not in times} == {
        n: v for n, v in here.items() if n not in times
    }
    said = r"dataset='file://.*two:nope': .*split='nope'"
    with pytest.raises(ValueError, match=said):
        run("--dataset", f"file://{workshop / 'two'}:nope")


@pytest.mark.usefixtures("workshop")
def test_scores_of_other_code_are_kept_and_told_of(fake, monkeypatch):
    run()
    pairs, ours = fake.scored, this_code_and_devices()
    console = Console(file=StringIO(), width=1000)
    assert evaluate(parse_options(ARGUMENTS), console)["datasets"]["one"]["scored_by"] == {ours: 10}
    assert "scored before" not in console.file.getvalue()
    monkeypatch.setattr("prorank_jax.score_origin.code_digest", lambda: "other")
    content = evaluate(parse_options(ARGUMENTS), console)
    assert content["datasets"]["one"]["scored_by"] == {ours: 10}
    assert f"one: 10 of 10 queries were scored before, by {ours}, and not by " in console.file.getvalue()
    assert fake.scored == pairs


def test_a_stopped_evaluation_resumes_to_the_same_files(workshop, fake):
    run()
    whole, pairs = without_times(workshop / "out"), fake.scored
    shutil.move(workshop / "out", workshop / "whole")
    fake.scored, fake.stop_after = 0, 20
    with pytest.raises(KeyboardInterrupt):
        run()
    assert 20 <= fake.scored < pairs
    fake.stop_after = None
    run()
    assert fake.scored == pairs
    assert without_times(workshop / "out") == whole
    run()
    assert fake.scored == pairs  # nothing is scored twice


@pytest.mark.usefixtures("fake")
def test_metrics_are_there_only_when_their_page_is(workshop, monkeypatch):
    """An ablation takes them for the whole result."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "render_page", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not (workshop / "out" / "metrics.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert run() == json.loads((workshop / "out" / "metrics.json").read_text())
    assert len(sections_of((workshop / "out" / "report.html").read_text())) == 2


@pytest.mark.usefixtures("fake")
def test_datasets_can_be_added_later(workshop):
    together = run()["datasets"]
    page = (workshop / "out" / "report.html").read_text()
    shutil.rmtree(workshop / "out")
    for name in ("two:dev", "one"):
        parts = evaluate(EvaluationOptions("model", (name,), output_dir=Path("out")))
    assert {name: entry["delta"] for name, entry in parts["datasets"].items()} == {
        name: entry["delta"] for name, entry in together.items()
    }
    assert "average" in parts
    added_to = (workshop / "out" / "report.html").read_text()
    assert len(sections_of(page)) == 2
    assert sections_of(added_to) == sections_of(page)


@pytest.mark.usefixtures("workshop")
def test_scores_of_other_excerpts_are_left_alone(fake, monkeypatch):
    monkeypatch.setattr(fake, "own_excerpts", "key_sentences")
    run()
    monkeypatch.setattr(module, "EXCERPT_VERSION", module.EXCERPT_VERSION + 1)
    with pytest.raises(ValueError, match="excerpt_version is 2 there, 3 here"):
        run()


@pytest.mark.usefixtures("fake")
def test_the_first_stage_may_be_a_run_of_ones_own(workshop):
    run()
    own = [str(workshop / "out" / folder / "first_stage.trec") for folder in ("one", "two-dev")]
    again = run("--output_dir", "again", "--first_stage", *own, "--compare", *own)
    for name, entry in again["datasets"].items():
        assert (
            entry["first_stage"]
            == json.loads((workshop / "out/metrics.json").read_text())["datasets"][name]["first_stage"]
        )
        assert entry["compared"]["delta"] == entry["delta"]


@pytest.mark.parametrize(
    "more",
    [
        ["--top_k", "1"],
        ["--top_k", "2", "--queries", "7"],
        ["--fusion", "weighted", "--fusion_weight", "0.6", "--top_k", "3"],
    ],
    ids=["one is scored", "sampled", "fused"],
)
@pytest.mark.usefixtures("fake")
def test_what_is_left_unread_of_a_collection_changes_no_byte_of_the_results(more, workshop, monkeypatch):
    """A judged document that is absent, queries that are documents, and one without candidates.

    Those are ranked first and last: the one lets another document in, the other nobody else ranks high.
    """
    corpus = workshop / "one" / "corpus.jsonl"
    lines = [line for line in corpus.read_text().splitlines() if '"d0-0"' not in line]
    for query, word in (("q3", "cloud0"), ("q4", "tiger0")):
        lines.append(json.dumps({"_id": query, "title": "", "text": f"what is {word}"}))
    corpus.write_text("\n".join(lines) + "\n")
    there = [json.loads(line)["_id"] for line in lines[:-2]]
    rankings = {f"q{n}": [*there[3 * n :], *there[: 3 * n]] for n in range(9)}
    rankings |= {"q3": ["q3", *rankings["q3"]], "q4": [*rankings["q4"], "q4"]}
    write_run(workshop / "run", rankings, "t")
    write_run(workshop / "other", {"q1": there[::-1], "q3": ["d1-1", "q3"], "q4": ["q4"]}, "t")
    whole = module.prepare.__globals__["load_collection"]
    said, read = [], []

    def load(*names, choose, measured):
        read.append(whole(*names, choose=choose if folder == "part" else None, measured=measured))
        return read[-1]

    monkeypatch.setitem(module.prepare.__globals__, "load_collection", load)
    for folder in ("part", "whole"):
        monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
        (workshop / folder).mkdir()
        monkeypatch.chdir(workshop / folder)
        for name in ("model", "one", "run", "other"):
            Path(name).symlink_to(workshop / name)
        console = Console(file=StringIO(), width=80)
        given = ["--first_stage", "run", "--compare", "other", "--output_dir", "out", *more]
        evaluate(parse_options(["--model", "model", "--dataset", "one", *given]), console)
        said.append(console.file.getvalue())
    assert len(read[0].documents) < len(read[1].documents) == 31
    assert said[0] == said[1]
    parts, wholes = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (workshop / "part" / "out", workshop / "whole" / "out")
    )
    assert parts == wholes
    assert json.loads(parts[Path("metrics.json")])["datasets"]["one"]["own_documents_dropped"] == 2


@pytest.mark.usefixtures("fake")
def test_judged_documents_that_are_absent_count_as_trec_eval_counts_them(workshop):
    folder = workshop / "one"
    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    gone = ("d0-0", "d1-0", "d1-1")  # one relevant document of q0, both of q1
    (folder / "corpus.jsonl").write_text(
        "".join(line for line in lines if json.loads(line)["_id"] not in gone)
    )
    entry = run()["datasets"]["one"]
    qrels = load_collection("one", "test", measured=True).qrels
    ranked = read_run(workshop / "out" / "one" / "reranked.trec")
    scores = {
        query: {d: 1.0 / place for place, d in enumerate(documents, 1)} for query, documents in ranked.items()
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(scores)
    assert set(qrels) == set(found)
    expected = np.mean([values["ndcg_cut_10"] for values in found.values()])
    assert entry["reranked"]["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert found["q1"]["ndcg_cut_10"] == 0
    assert (entry["queries"], entry["absent_documents"]) == (10, 3)


def test_a_run_of_other_queries_is_nothing_to_compare_with(workshop, fake):
    with (workshop / "one" / "queries.jsonl").open("a") as file:
        file.write('{"_id": "other", "text": "of another split"}\n')
    (workshop / "other.trec").write_text("other Q0 d0-0 1 1.0 x\n")
    with pytest.raises(ValueError, match=r"other\.trec: ranks none of the 10 judged queries"):
        run("--compare", "other.trec", "other.trec")
    assert fake.scored == 0


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ("demo:nosuch", r"dataset='demo:nosuch': split='nosuch'"),
        ("beir/nfcorpus", r"dataset='beir/nfcorpus': .*qrels"),
        ("beir/nosuch", r"dataset='beir/nosuch': "),
        ("two:test", r"dataset='two:test': "),
    ],
)
@pytest.mark.usefixtures("workshop")
def test_a_later_dataset_that_cannot_be_measured_is_refused_before_the_first_is(later, said, fake):
    given = ["--model", "model", "--dataset", "one", later, "--output_dir", "out"]
    with pytest.raises(ValueError, match=said):
        evaluate(parse_options(given), Console(file=StringIO()))
    assert fake.scored == 0


@pytest.mark.usefixtures("fake")
def test_a_run_to_compare_with_is_freed_of_the_queries_themselves_too(workshop):
    """As the first stage is: the same run on both sides gives the same figures."""
    with (workshop / "one" / "corpus.jsonl").open("a") as corpus, (workshop / "q.run").open("w") as ranked:
        for line in (workshop / "one" / "queries.jsonl").read_text().splitlines():
            query = json.loads(line)
            corpus.write(json.dumps({"_id": query["_id"], "title": "", "text": query["text"]}) + "\n")
            ranked.write(f"{query['_id']} Q0 {query['_id']} 1 9.0 raw\n")
    qrels = (workshop / "one" / "qrels" / "test.tsv").read_text().splitlines()[1:]
    with (workshop / "q.run").open("a") as ranked:
        for number, (query, document, _) in enumerate(line.split("\t") for line in qrels):
            ranked.write(f"{query} Q0 {document} 2 {1 - number / 1000} raw\n")
    own = ["--first_stage", "q.run", "--compare", "q.run"]
    content = evaluate(parse_options(["--model", "model", "--dataset", "one", "--output_dir", "out", *own]))
    entry = content["datasets"]["one"]
    assert entry["own_documents_dropped"] == 10
    assert entry["compared"]["delta"] == entry["delta"]


@pytest.mark.usefixtures("fake")
def test_a_sample_of_the_queries_is_said_to_be_one(workshop):
    content = run("--queries", "6")
    assert content["datasets"]["one"]["queries"] == 6
    assert content["datasets"]["one"]["sampled_from"] == 10
    assert content["datasets"]["two:dev"]["sampled_from"] is None
    assert "random sample" in (workshop / "out" / "report.html").read_text()


def refusal(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert load_launcher("evaluate").main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    return said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--top_k", "7"], "top_k is 100 there, 7 here"),
        (["--max_length", "32"], "max_length is 64 there, 32 here"),
        (["--instruction", "be strict"], "instruction is None there, 'be strict' here"),
        (["--queries", "6"], "queries is 10 there, 6 here"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_the_results_of_another_evaluation_are_left_alone(more, message, workshop, capsys):
    run()
    before = content_of(workshop / "out")
    assert message in refusal(capsys, *ARGUMENTS, *more)
    assert content_of(workshop / "out") == before


@pytest.mark.usefixtures("fake")
def test_another_model_in_the_same_place_is_noticed(workshop, capsys):
    run()
    (workshop / "model" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert "model_fingerprint is" in refusal(capsys, *ARGUMENTS)


def test_what_an_earlier_version_scored_of_a_run_is_not_scored_again(workshop, fake):
    model = write_run_folder(workshop / "run")
    run("--model", "run")
    scored, now = fake.scored, model_identity("run")["model_fingerprint"].encode()
    for file in (workshop / "out").rglob("*.json*"):
        file.write_bytes(file.read_bytes().replace(now, fingerprint_of_before(model).encode()))
    before = without_times(workshop / "out")
    assert run("--model", "run")["model_fingerprint"] == fingerprint_of_before(model)
    assert fake.scored == scored > 0
    assert without_times(workshop / "out") == before


@pytest.mark.usefixtures("fake")
def test_changed_documents_are_noticed(workshop, capsys):
    run()
    corpus = workshop / "one" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("text number 1", "text number one"))
    assert "dataset_fingerprint is" in refusal(capsys, *ARGUMENTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "one"], "required: --model"),
        ([*ARGUMENTS, "--top_k", "0"], "top_k=0"),
        (["--model", "nowhere/to/be", "--dataset", "one"], "no such folder or file"),
        (["--model", "model", "--dataset", "one:dev"], "dataset='one:dev': .*'dev'.*choose one of test"),
        (["--model", "model", "--dataset", "two"], "name a split: two:dev"),
        (["--model", "model", "--dataset", "beir/scifct/test"], "did you mean.*beir/scifact/test"),
        (["--model", "model", "--dataset", "demo:tset"], "dataset='demo:tset': .*train, dev, test"),
        (["--model", "model", "--dataset", "demo:tset"], "dataset='demo:tset': split='tset': the demo has"),
        (
            ["--model", "model", "--dataset", "one:dev"],
            "dataset='one:dev': split='dev': .*choose one of test",
        ),
        (["--model", "model", "--dataset", "one", "one"], "told apart"),
        ([*ARGUMENTS[:-1], "one"], "holds 'corpus.jsonl' but no evaluation.json"),
        ([*ARGUMENTS[:-1], "one/corpus.jsonl"], "cannot be written to"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, workshop, fake, capsys):
    before = content_of(workshop)
    assert re.search(message, refusal(capsys, *arguments))
    left = {name: data for name, data in content_of(workshop).items() if not name.endswith(".lock")}
    assert left == before
    assert fake.scored == 0


def test_a_run_with_unknown_ids_is_refused_before_the_model_is_loaded(workshop, fake, capsys):
    write_run(workshop / "run.trec", {"q1": ["d1-0", "from-elsewhere"]}, "t")
    said = refusal(capsys, "--model", "model", "--dataset", "one", "--first_stage", "run.trec")
    assert "1 documents that one/test lacks ('from-elsewhere')" in said
    assert fake.opened == []


@pytest.mark.usefixtures("fake")
def test_two_processes_never_share_a_folder(workshop, capsys):
    with only_run_in(workshop / "out"):
        assert "another run is writing there" in refusal(capsys, *ARGUMENTS)


@pytest.mark.usefixtures("workshop")
def test_ctrl_c_says_how_to_go_on(fake, capsys):
    fake.stop_after = 0
    assert load_launcher("evaluate").main(ARGUMENTS) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        load_launcher("evaluate").main(["--help"])
    said = capsys.readouterr().out
    for option in ("--model", "--dataset", "--first_stage", "--top_k", "--output_dir", "--queries"):
        assert option in said


@pytest.mark.usefixtures("fake")
def test_a_model_that_was_trained_on_a_measured_split_is_told_so(workshop):
    rows = "| `data.source` | `one` |\n| `data.split` | `test` |\n"
    (workshop / "model" / "README.md").write_text(rows)
    said = StringIO()
    content = evaluate(parse_options(ARGUMENTS), Console(file=said, width=80))
    assert [entry["trained_on"] for entry in content["datasets"].values()] == [True, False]
    assert said.getvalue().count("warning: ") == 1
    assert "one: The model was trained on this very split" in said.getvalue()
    assert "two:dev: The model was trained on" not in said.getvalue()
    assert (workshop / "out" / "report.html").read_text().count("trained on this very split") == 1


def test_names_of_one_model_go_on_with_its_evaluation(workshop, fake):
    run()
    before, scored = without_times(workshop / "out"), fake.scored
    for name in ("model/", "./model", str(workshop / "model")):
        run("--model", name)
    assert fake.scored == scored
    assert without_times(workshop / "out") == before
    shutil.copytree(workshop / "model", workshop / "copy")
    with pytest.raises(ValueError, match="model is 'model' there, 'copy' here"):
        run("--model", "copy")


@pytest.mark.usefixtures("workshop")
def test_a_folder_of_another_evaluation_is_refused_before_anything_is_loaded(fake, monkeypatch):
    run()
    fake.opened = []

    def refuse(*_: object) -> None:
        raise AssertionError("a dataset was loaded")

    monkeypatch.setattr(module, "prepare", refuse)
    for more in (["--top_k", "7"], ["--max_length", "32"], ["--excerpts", "key_sentences"]):
        with pytest.raises(ValueError, match="belongs to another evaluation"):
            run(*more)
    assert fake.opened == []


@pytest.mark.usefixtures("workshop", "fake")
def test_a_dataset_is_released_before_the_next_is_loaded(monkeypatch):
    loaded, load = [], module.prepare

    def watch(*given):
        gc.collect()
        assert [task() for task in loaded] == [None] * len(loaded)
        prepared = load(*given)
        loaded.append(weakref.ref(prepared[0].collection))
        return prepared

    monkeypatch.setattr(module, "prepare", watch)
    run()
    assert len(loaded) == 2
