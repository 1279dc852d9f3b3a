"""Tables and JSON of reports, the memory that a compiler states, and the command's exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from prorank_jax.aot import command, compile_table
from prorank_jax.aot.chips import CHIPS, accelerator_of
from prorank_jax.aot.compile_table import TABLE_JSON, TABLE_MARKDOWN, compile_all, report_from_json
from prorank_jax.aot.memory import COMPILER, SUM, Refusal, planned_memory, refusal
from prorank_jax.aot.options import parse_options
from prorank_jax.aot.report import markdown_table, report_table
from tests.cpu.aot.reports import make_report


def stats(**fields: int) -> SimpleNamespace:
    names = ("argument", "output", "alias", "temp", "generated_code")
    sizes = dict(zip((f"{name}_size_in_bytes" for name in names), (100, 60, 50, 30, 7), strict=True))
    return SimpleNamespace(memory_analysis=lambda: SimpleNamespace(**sizes, **fields))


def test_the_compilers_peak_is_taken_where_there_is_one():
    memory = planned_memory(stats(peak_memory_in_bytes=120))
    assert (memory.peak, memory.peak_is) == (120, COMPILER)
    assert (memory.arguments, memory.outputs, memory.temporaries, memory.code) == (100, 10, 30, 7)
    assert planned_memory(stats()).peak == 147
    assert planned_memory(stats()).peak_is == SUM


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 20.46G of 15.75G hbm. Exceeded hbm capacity",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (20.46G) "
        "exceeds available HBM (15.75G).",
    ],
)
def test_a_refusal_says_how_much(message):
    assert refusal(message) == Refusal(used=int(20.46 * 2**30), available=int(15.75 * 2**30))
    assert refusal("INTERNAL: something else") is None


def render(table: object) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table)
    return " ".join(console.export_text().split())


def test_tables_say_that_estimates_are_neither_measurements_nor_bounds():
    said = render(report_table(make_report(), CHIPS["v5e"]))
    assert "neither measurements nor bounds" in said
    assert "estimate: MFU │ 50.0%" in said
    assert not [word for word in ("at least", "at most", "bound:") if word in said]
    assert "4.00 GiB of 16.00 GiB: fits (compiler's peak)" in said
    assert "50.0% are model FLOPs" in said
    refused = render(report_table(make_report(fits=False, compiled=False), CHIPS["v5e"]))
    assert "DOES NOT FIT" in refused
    assert "MFU" not in refused
    table = markdown_table([("one", make_report()), ("two", make_report(fits=False, compiled=False))])
    assert "neither measurements nor bounds" in table
    assert "≤" not in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "does not fit" in rows[-1]


def test_a_table_for_a_gpu_says_whose_share_the_capacity_is_and_that_no_kernel_was_tried():
    said = render(report_table(make_report(), CHIPS["h100"]))
    assert "75% that jax takes of a GPU" in said
    assert "without trying them out" in said
    assert "NVIDIA H100" in said
    assert "of a GPU" not in render(report_table(make_report(), CHIPS["v5e"]))


def test_a_report_survives_json():
    for report in (make_report(), make_report(fits=False, compiled=False)):
        assert report_from_json(json.loads(json.dumps(report.to_json()))) == report


def options(tmp_path: Path, *more: str):
    fields = ["--model.source", "Qwen/Qwen2.5-0.5B-Instruct", "--topology", "v5e:2x4", "--mesh.fsdp", "8"]
    return parse_options([*fields, "--output", str(tmp_path / "out.json"), "--mesh.data", "1", *more])


def test_everything_fits_is_0_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "compile_report", lambda *_: make_report())
    assert command.run_aot(options(tmp_path), Console()) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert report_from_json(written["reports"][0]) == make_report()
    assert "neither measurements nor bounds" in written["note"]
    assert "stage 1 on v5e:2x4" in capsys.readouterr().out


def test_what_does_not_fit_is_1_with_by_how_much_and_what_would_help(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "compile_report", lambda *_: make_report(fits=False, compiled=False))
    assert command.run_aot(options(tmp_path, "--train.batch_size", "256"), Console()) == 1
    said = capsys.readouterr().err
    assert "needs 4.00 GiB more than there is" in said
    assert "--model.remat full: about" in said
    assert json.loads((tmp_path / "out.json").read_text())["reports"][0]["advice"]


def test_a_search_recommends_overrides(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "compile_report", lambda *_: make_report(seconds=0.5))
    assert (
        command.run_aot(options(tmp_path, "--train.batch_size", "256", "--search"), Console(width=300)) == 0
    )
    recommended = json.loads((tmp_path / "out.json").read_text())["recommended"][0]
    assert recommended["train.batch_size"] == 256
    assert f"--model.remat {recommended['model.remat']}" in capsys.readouterr().out


def test_a_search_that_finds_nothing_is_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "compile_report", lambda *_: make_report(fits=False, compiled=False))
    assert command.run_aot(options(tmp_path, "--train.batch_size", "256", "--search"), Console()) == 1
    assert "nothing that was compiled fits" in capsys.readouterr().err


@pytest.fixture
def configs(tmp_path) -> list[Path]:
    files = [tmp_path / f"model_{name}.yaml" for name in ("v5e-8", "v6e-8")]
    for file in files:
        file.write_text("train: {batch_size: 64}\n")
    return files


def test_the_table_goes_on_where_it_stopped_and_notices_changes(configs, tmp_path):
    compiled = []

    def compile_one(file: Path, stage: str):
        compiled.append((file.stem, stage))
        if len(compiled) == 3:
            raise KeyboardInterrupt
        return replace(make_report(), step=stage)

    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compile_all(configs, output, Console(), compile_one)
    assert compile_all(configs, output, Console(), compile_one)
    assert len(compiled) == 5
    assert compiled.count(("model_v5e-8", "1")) == 1
    table = json.loads((output / TABLE_JSON).read_text())
    assert [(row["config"], row["step"]) for row in table] == [
        (file.stem, stage) for file in configs for stage in ("1", "2")
    ]
    assert (output / TABLE_MARKDOWN).read_text().count("| model_") == 4
    configs[0].write_text("train: {batch_size: 128}\n")
    compile_all(configs, output, Console(), compile_one)
    assert compiled[5:] == [("model_v5e-8", "1"), ("model_v5e-8", "2")]


def test_a_config_whose_name_says_no_slice_is_refused_before_anything_is_compiled(configs, tmp_path):
    stranger = tmp_path / "model.yaml"
    stranger.write_text("")
    with pytest.raises(ValueError, match=r"model\.yaml.*must end in"):
        compile_all([*configs, stranger], tmp_path / "out", Console(), lambda *_: make_report())
    assert not (tmp_path / "out").exists()
    assert accelerator_of(configs[0]) == "v5e-8"
    assert compile_table.fingerprint(configs[0]) == compile_table.fingerprint(configs[1])
