"""What a run trains on holds no query of its probe."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from prorank_jax import run_examples
from prorank_jax.config import DataOptions, ProbeOptions, RankingOptions, RunConfig, TrainOptions
from prorank_jax.corpora import load_groups
from prorank_jax.data import ExampleSet
from prorank_jax.embedding_jsonl import split_of
from prorank_jax.query_choice import QueryChoice
from prorank_jax.query_texts import plain_texts
from prorank_jax.run_examples import check_sources, open_examples
from prorank_jax.trec import write_run
from tests.cpu.data_fixtures import WordRenderer, write_beir_folder, write_jsonl


def _collection(folder: Path, held_out: dict[str, str]) -> Path:
    """A `dev` split of queries with these texts, beside ten queries `what is WORD` to train on."""
    write_beir_folder(folder)
    with (folder / "queries.jsonl").open("a") as file:
        file.writelines(json.dumps({"_id": name, "text": text}) + "\n" for name, text in held_out.items())
    rows = "".join(f"{name}\td{place}-0\t2\n" for place, name in enumerate(held_out))
    (folder / "qrels" / "dev.tsv").write_text(rows)
    return folder


def _open(source: Path, cache: Path, **options: int) -> tuple[ExampleSet, ExampleSet, str]:
    config = RunConfig(data=DataOptions(source=str(source), max_length=96, **options))
    said = Console(file=io.StringIO(), width=200)
    examples, held_out = open_examples(config, WordRenderer(), said, cache, is_leaders=True)
    return examples, held_out, said.file.getvalue()


def _queries(examples: ExampleSet) -> set[str]:
    return {examples[position].query_id for position in range(len(examples))}


def test_training_queries_that_are_held_out_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = {"h0": "who is apple0", "h1": " What  is\tRIVER0", "h2": "what is stone0"}
    names = {f"q{number}" for number in range(10)}
    source = _collection(tmp_path / "beir", texts)
    asked = {group.query_id: group.query for group in load_groups(str(source), "train", DataOptions())}
    left_out = {name for name, text in asked.items() if plain_texts([text]) & plain_texts(texts.values())}
    examples, held_out, said = _open(source, tmp_path / "cache")
    assert left_out
    assert _queries(examples) == names - left_out
    assert _queries(held_out) == set(texts)
    assert f"{len(left_out)} of 10 training queries are held-out ones too; they are left out" in said
    assert _open(source, tmp_path / "cache")[0].folder == examples.folder


def test_the_left_out_queries_are_part_of_what_names_the_examples(tmp_path: Path) -> None:
    source = _collection(tmp_path / "beir", {"h0": "who is apple0"})
    all_of_them, _, said = _open(source, tmp_path / "cache")
    assert len(_queries(all_of_them)) == 10
    assert "left out" not in said
    other = "other"
    (source / "qrels" / f"{other}.tsv").write_text("q3\td3-0\t2\n")
    config = RunConfig(data=DataOptions(source=str(source), max_length=96, probe_split=other))
    fewer, _ = open_examples(config, WordRenderer(), Console(quiet=True), tmp_path / "cache", True)
    assert _queries(fewer) == _queries(all_of_them) - {"q3"}
    assert fewer.folder != all_of_them.folder


def test_without_a_held_out_split_some_training_queries_may_be_one(tmp_path: Path) -> None:
    source = write_beir_folder(tmp_path / "beir")
    told = "dev.tsv does not exist; choose one of train, or put the lines of some training queries into it"
    with pytest.raises(ValueError, match=told):
        _open(source, tmp_path / "cache")
    lines = (source / "qrels" / "train.tsv").read_text().splitlines(keepends=True)
    (source / "qrels" / "dev.tsv").write_text("".join(lines[:5]))
    examples, held_out, said = _open(source, tmp_path / "cache")
    assert "2 of 10 training queries are held-out ones too; they are left out" in said
    assert len(_queries(held_out)) == 2
    assert len(_queries(examples)) == 8
    assert not _queries(examples) & _queries(held_out)


def test_a_split_that_is_held_out_whole_is_refused(tmp_path: Path) -> None:
    source = _collection(tmp_path / "beir", {"h0": "who is apple0"})
    (source / "qrels" / "dev.tsv").write_text((source / "qrels" / "train.tsv").read_text())
    with pytest.raises(ValueError, match="train: every query is held out for the probe too; hold out other"):
        _open(source, tmp_path / "cache")


def test_no_query_is_made_that_is_held_out() -> None:
    options = DataOptions(pseudo_queries=30)
    made = [group for group in load_groups("demo", "train", options) if group.query_id.startswith("pseudo:")]
    unwanted = plain_texts(group.query.upper() for group in made[:10])
    others = load_groups("demo", "train", options, choice=QueryChoice(unwanted))
    made_then = [group for group in others if group.query_id.startswith("pseudo:")]
    assert len(made) == len(made_then) == 30
    assert made_then[:20] == made[10:]


def test_lines_of_a_file_with_a_held_out_query_are_left_out(tmp_path: Path) -> None:
    lines = [{"query": f"query {n}", "pos": [f"relevant {n}"], "neg": [f"other {n}"]} for n in range(5)]
    source = str(write_jsonl(tmp_path / "train.jsonl", lines))
    groups = load_groups(
        source, "all", DataOptions(), choice=QueryChoice(plain_texts(["Query 1", "query  4"]))
    )
    assert [group.query for group in groups] == ["query 0", "query 2", "query 3"]
    with pytest.raises(ValueError, match="every query is held out"):
        load_groups(
            source, "all", DataOptions(), choice=QueryChoice(plain_texts(line["query"] for line in lines))
        )


def test_the_probe_mines_for_a_sample_of_many_held_out_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _collection(tmp_path / "beir", {f"h{number}": f"who is {number}" for number in range(10)})
    _, whole, _ = _open(source, tmp_path / "cache")
    assert len(_queries(whole)) == 10
    monkeypatch.setattr(run_examples, "PROBED_QUERIES", 4)
    probe = ProbeOptions(examples=4)
    config = RunConfig(data=DataOptions(source=str(source), max_length=96), probe=probe)

    def opened(name: str) -> ExampleSet:
        return open_examples(config, WordRenderer(), Console(quiet=True), tmp_path / name, True)[1]

    sample, again = opened("cache"), opened("other")
    assert len(_queries(sample)) == 4
    assert _queries(sample) < _queries(whole)
    assert _queries(sample) == _queries(again)
    assert sample.folder.name == again.folder.name != whole.folder.name


def test_at_most_so_many_queries_are_trained_on(tmp_path: Path) -> None:
    """Drawn by the seed from all that are not held out; the probe's stay."""
    source, cache = (
        _collection(tmp_path / "beir", {"h0": "who is apple0", "h1": "what is river0"}),
        tmp_path / "c",
    )
    whole, held_out, _ = _open(source, cache)
    assert len(_queries(whole)) == 9
    for most in (0, 10, 99):  # they leave nothing out: the examples have the name that they had
        assert _open(source, cache, max_queries=most)[0].folder == whole.folder
    few, probed, _ = _open(source, cache, max_queries=4)
    again, _, _ = _open(source, tmp_path / "other", max_queries=4)
    assert len(_queries(few)) == 4
    assert _queries(few) < _queries(whole)
    assert _queries(again) == _queries(few)
    assert again.folder.name == few.folder.name != whole.folder.name
    assert probed.folder == held_out.folder
    options = DataOptions(source=str(source), max_length=96, max_queries=4)
    config = RunConfig(data=options, train=TrainOptions(seed=1))
    other, _ = open_examples(config, WordRenderer(), Console(quiet=True), cache, is_leaders=True)
    assert _queries(other) != _queries(few)


def _run_of_others(file: Path, queries: int) -> str:
    """The third document of the other queries, which shares no rare word with the query."""
    others = {f"q{n}": [f"d{(n + step) % 10}-2" for step in range(1, 7)] for n in range(queries)}
    write_run(file, others, "dense")
    return str(file)


@pytest.mark.parametrize("stage", [1, 2])
def test_negatives_of_a_run_are_trained_on_in_both_stages_and_not_probed(stage: int, tmp_path: Path) -> None:
    source = _collection(tmp_path / "beir", {"h0": "who is apple0"})
    data = DataOptions(source=str(source), max_length=96, hard_negatives=1.0)
    run = _run_of_others(tmp_path / "run.trec", 10)

    def opened(data: DataOptions) -> list[ExampleSet]:
        config = RunConfig(stage=stage, data=data)
        return list(open_examples(config, WordRenderer(), Console(quiet=True), tmp_path / "cache", True))

    examples, probed = opened(dataclasses.replace(data, negatives_run=run))
    found = [examples[place] for place in range(len(examples))]
    assert {(e.query_id, e.document_id) for e in found if not e.label} <= {
        (f"q{n}", f"d{(n + step) % 10}-2") for n in range(10) for step in range(1, 7)
    }
    assert sum(not example.label for example in found) == 40
    assert probed.folder == opened(data)[1].folder


@pytest.mark.parametrize(("queries", "refused"), [(10, False), (9, True)])
def test_a_run_that_lacks_queries_is_refused_before_documents_are_read(
    queries: int, refused: bool, tmp_path: Path
) -> None:
    """As with --stage both before stage 1 begins; a held-out query need not be there."""
    source = _collection(tmp_path / "beir", {"h0": "who is apple0", "h1": "what is apple0"})
    (source / "corpus.jsonl").write_text("no document is read")
    lacking_first = _run_of_others(tmp_path / "run.trec", queries)
    run = Path(lacking_first)
    run.write_text("".join(line for line in run.open() if not line.startswith("q0 ")))
    config = RunConfig(data=DataOptions(source=str(source), max_length=96, negatives_run=str(run)))
    if not refused:
        check_sources(config)
        return
    with pytest.raises(ValueError, match=r"lacks 1 of the 9 queries to train on \('q9'\)"):
        check_sources(config)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ids.tsv", "q9\td9-0\t0.5\n", ""),
        ("ids.tsv", "q0\td0-0\t0.5\nh0\th0-0\t0.5\n", r"none of their 2 queries .* is among the 9 to train"),
        ("texts.jsonl", '{"query": "what is\\tRIVER0", "passage": "a", "score": 0.5}', ""),
        (
            "texts.jsonl",
            '{"query": "what is tea", "passage": "a", "score": 0.5}',
            "none of their 1 pairs has",
        ),
    ],
    ids=["an id", "ids of held-out queries", "a text", "another text"],
)
def test_scores_of_other_queries_are_refused_before_documents_are_read(
    name: str, text: str, told: str, stage: int, tmp_path: Path
) -> None:
    """Texts are compared as those of held-out queries are; what candidates show is left to training."""
    source = _collection(tmp_path / "beir", {"h0": "what is apple0"})
    (source / "corpus.jsonl").write_text("no document is read")
    (tmp_path / name).write_text(text)
    data = DataOptions(source=str(source), max_length=96, teacher_scores=str(tmp_path / name))
    config = RunConfig(stage=stage, data=data, ranking=RankingOptions(losses="margin_mse=1"))
    if told:
        with pytest.raises(ValueError, match=rf"^data\.teacher_scores: {told}"):
            check_sources(config)
    else:
        check_sources(config)
    if name == "texts.jsonl":  # they may be those of the queries that are made
        check_sources(dataclasses.replace(config, data=dataclasses.replace(data, pseudo_queries=3)))


@pytest.mark.parametrize(("soft_labels", "score"), [("teacher", 2.5), ("teacher_logit", 0.5)])
def test_scores_that_cannot_be_labels_are_refused_before_documents_are_read(
    soft_labels: str, score: float, tmp_path: Path
) -> None:
    source = _collection(tmp_path / "beir", {"h0": "who is apple0"})
    (source / "corpus.jsonl").write_text("no document is read")
    (tmp_path / "scores.tsv").write_text(f"q0\td0-0\t{score}\n")
    data = DataOptions(source=str(source), max_length=96, teacher_scores=str(tmp_path / "scores.tsv"))
    ranking = RankingOptions(losses="pointwise=1", soft_labels=soft_labels)
    with pytest.raises(ValueError, match=rf"^ranking\.soft_labels='{soft_labels}': the teacher's scores go"):
        check_sources(RunConfig(stage=2, data=data, ranking=ranking))


def test_of_a_file_of_groups_so_many_queries_are_trained_on(tmp_path: Path) -> None:
    lines = [{"query": f"query {n}", "pos": [f"yes {n}"], "neg": [f"no {n}"]} for n in range(60)]
    source = write_jsonl(tmp_path / "train.jsonl", lines)
    few, held_out, _ = _open(source, tmp_path / "cache", max_queries=4)
    assert len(_queries(few)) == 4
    assert not _queries(few) & _queries(held_out)


@pytest.mark.parametrize("made", [0, 5])
def test_made_queries_ask_nothing_that_is_held_out_and_are_not_probed(
    made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[DataOptions, QueryChoice]] = []

    def fake(
        _source: str, _split: str, data: DataOptions, *_: object, choice: QueryChoice, **__: object
    ) -> str:
        opened.append((data, choice))
        return "examples"

    monkeypatch.setattr(run_examples, "open_dataset", fake)
    monkeypatch.setattr(run_examples, "example_notices", lambda *_: [])
    asked = {"train": {"q": "what is tea"}, "dev": {"h": "Who  drinks it", "i": "what is TEA"}}
    monkeypatch.setattr(run_examples, "judged_queries", lambda _, split, *__: asked[split])
    data = DataOptions(source="x", pseudo_queries=made, max_length=96)
    open_examples(RunConfig(data=data), WordRenderer(), Console(quiet=True), tmp_path, is_leaders=True)
    (trained, choice), (probed, _) = opened
    assert choice.held_out == plain_texts(["what is tea"] + ["who drinks it"] * bool(made))
    assert trained.pseudo_queries == made
    assert (probed.pseudo_queries, probed.teacher_scores) == (0, "")


def _asked(name: str, count: int = 60) -> list[dict[str, object]]:
    return [{"query": f"{name} {n}", "pos": [f"yes {name} {n}"], "neg": ["no"]} for n in range(count)]


def _opened(cache: Path, **options: str) -> str:
    config = RunConfig(data=DataOptions(max_length=96, **options))
    said = Console(file=io.StringIO(), width=200)
    open_examples(config, WordRenderer(), said, cache, is_leaders=True)
    return said.file.getvalue()


def test_the_source_of_the_probe_is_shown(tmp_path: Path) -> None:
    mine = str(write_jsonl(tmp_path / "mine.jsonl", _asked("mine")))
    other = str(_collection(tmp_path / "beir", {"h0": "who is apple0"}))
    assert f"data: {mine} (train), held out: {mine} (dev)\n" in _opened(tmp_path / "cache", source=mine)
    said = _opened(tmp_path / "cache", source=mine, probe_source=other)
    assert f"data: {mine} (train), held out: {other} (dev)\n" in said


def test_queries_of_a_file_that_nothing_uses_are_counted(tmp_path: Path) -> None:
    """Its split is of no use where another source is held out, or trained on."""
    mine, other = (str(write_jsonl(tmp_path / f"{name}.jsonl", _asked(name))) for name in ("mine", "other"))
    held_out = {name: sum(split_of(f"{name} {n}") == "dev" for n in range(60)) for name in ("mine", "other")}
    assert all(held_out.values())
    cache = tmp_path / "cache"
    assert "outside" not in _opened(cache, source=mine)
    assert "outside" not in _opened(cache, source=mine, split="all", probe_source=other, probe_split="all")
    said = _opened(cache, source=mine, probe_source=other)
    assert (
        f"data: {held_out['mine']} of 60 queries of {mine} are outside its split 'train' and not trained on; "
        "data.split all takes them too\n"
        f"data: {60 - held_out['other']} of 60 queries of {other} are outside its split 'dev' "
        "and not probed; "
        "data.probe_split all takes them too\n"
    ) in said
    trained_on = [line for line in _asked("mine") if split_of(str(line["query"])) == "train"]
    write_jsonl(Path(mine), trained_on)
    assert "not trained on" not in _opened(cache, source=mine, probe_source=other)
