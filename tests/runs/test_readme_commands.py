"""Every command in README.md and docs/ works: it is run, or checked as far as this machine can."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import ir_datasets
import jax
import pytest

import prorank_jax.reranker
import prorank_jax.run_report
import prorank_jax.setup
from prorank_jax.sharding import make_mesh
from tests.cpu.rough_pictures import drawing_roughly
from tests.cpu.shared_programs import sharing_programs
from tests.runs.readme.commands import Command, commands_of_pages
from tests.runs.readme.furnishing import load_from_catalogue
from tests.runs.readme.pages import FIRST_PAGE, read_pages
from tests.runs.readme.python_code import GIVEN, calls_on, compiled, fitting_labels, models_in, python_blocks
from tests.runs.readme.real_runs import Place
from tests.runs.readme.small_things import SmallThings, write_small_things
from tests.runs.readme.ways import WAYS, ways_of

pytest.importorskip("ranx")

PAGES = read_pages()
COMMANDS = commands_of_pages(PAGES)


BODY = '{"query": "what is tea?", "documents": ["a drink", "a tree"]}'


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Iterator[SmallThings]:
    """Small models and collections; one device computes, its speed is not measured, pictures are rough."""
    with pytest.MonkeyPatch.context() as patch, sharing_programs(), drawing_roughly():
        for module in (prorank_jax.setup, prorank_jax.reranker):
            patch.setattr(module, "make_mesh", lambda options: make_mesh(options, jax.devices()[:1]))
        patch.setattr(prorank_jax.run_report, "measured_matmul_flops", lambda _: 1e12)
        made = write_small_things(tmp_path_factory.mktemp("small"))
        patch.setattr(ir_datasets, "load", partial(load_from_catalogue, things=made))
        yield made


@pytest.fixture
def place(things, tmp_path, monkeypatch, capsys) -> Place:
    """An empty working folder; what is fetched would be kept in it, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path, things, capsys)


def _place_and_program(command: Command) -> str:
    """No more than that: `-k cpu` would choose a command that names a config of that name."""
    return f"{command.page}:{command.line}: {' '.join(command.text.split()[:2])}"


@pytest.mark.parametrize("command", COMMANDS, ids=_place_and_program)
def test_a_command_works(command: Command, place: Place):
    found = ways_of(command)
    assert found, (
        f"{command.page}, line {command.line}: nobody runs {command.text!r}; let one of WAYS in "
        "tests/runs/readme/ways.py claim it, or add one there that runs it"
    )
    place_of_it = f"{command.page}, line {command.line}"
    assert len(found) == 1, f"{place_of_it}: {command.text!r} is claimed by {found}; by one"
    WAYS[found[0]].run(command, place)


def test_python_code_runs(place):
    """All blocks in one session, top to bottom, and then what the text calls of the objects they made."""
    written = [block for text in PAGES.values() for block in python_blocks(text)]
    assert written
    names = dict(GIVEN)
    (place.folder / "pairs.jsonl").symlink_to(place.things.scored)
    for block in written:
        for model in models_in(block.text):
            place.furnish(["--model", model])
        exec(compiled(block.text), names)
    made = set(names) - set(GIVEN)
    names["labels"] = fitting_labels(names)
    for span in calls_on(made, "\n".join(PAGES.values())):
        exec(compiled(span.text), names)


def test_curl_asks_a_server(place):
    text = f"curl -s http://localhost:8080/rerank -H 'Content-Type: application/json' -d '{BODY}'"
    for command in (Command(text, 1), Command("curl 127.0.0.1:8080/health", 1)):
        (name,) = ways_of(command)
        WAYS[name].run(command, place)


def test_a_command_that_nobody_runs_is_noticed():
    more = "```\nmake demo\nconda install prorank-jax\n```\n`python -m prorank_jax.evaluate` `launch/x`\n"
    longer = PAGES | {FIRST_PAGE: f"{PAGES[FIRST_PAGE]}\n{more}"}
    new = [command for command in commands_of_pages(longer) if command not in COMMANDS]
    assert [(command.text, ways_of(command)) for command in new] == [
        ("conda install prorank-jax", []),
        ("python -m prorank_jax.evaluate", []),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python launch/evaluate.py --dataset demo", "required: --model"),
        (
            "python launch/evaluate.py --model runs/x --dataset demo --topk 3",
            "unrecognized arguments: --topk",
        ),
        ("python launch/tpu_train.py --stage 1 --train.stepz 3", "did you mean train.steps"),
        ("python launch/tpu_train.py --stage 1 --config configs/absent.yaml", "no such file"),
        ("python -m prorank_jax.server --port 8080", "required: --model"),
        ("python launch/benchmark.py ranking --peer trl", "peer='trl': choose"),
        ("python launch/aot_compile.py --config configs/stage1.yaml --topology v5e:2x4 [--serch]", "serch"),
        ("launch/tpu_pod.sh train --sport -- ARGS", "--sport"),
        ("launch/tpu_pod.sh train -- --stage 1 --train.stepz 3", "did you mean train.steps"),
        ("make dmeo", "No rule to make target 'dmeo'"),
        ("pip install -e '.[evla]'", "evla"),
        ("pip install -r requirement.txt", "requirement.txt"),
        ("pip install torch", "torch"),
        ("pytest tests/absent", "tests/absent"),
        ("pytest tests/ --kk peers", "unrecognized arguments: --kk"),
        (f"curl -d '{BODY}' 127.0.0.1:8080/rerank", "unsupported_media_type"),
        (f"curl -d '{BODY[:-1]}' -H 'Content-Type: application/json' 127.0.0.1:8080/rerank", "JSON"),
    ],
)
def test_a_command_that_does_not_work_fails(text, said, place):
    command = Command(text, 1)
    (name,) = ways_of(command)
    with pytest.raises((pytest.fail.Exception, AssertionError, ValueError), match=re.escape(said)):
        WAYS[name].run(command, place)
