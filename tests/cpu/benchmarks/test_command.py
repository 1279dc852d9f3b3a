from __future__ import annotations

import dataclasses
import io
import json
import os
import sys

import pytest
from rich.console import Console

import prorank_jax.benchmarks.options
from prorank_jax.benchmarks import command, loading
from prorank_jax.benchmarks.command import ALONE, compare_sides, run_benchmark
from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.report import BenchmarkResult, as_json, verdict
from prorank_jax.benchmarks.tasks import TASKS
from prorank_jax.benchmarks.tuning import with_room
from prorank_jax.benchmarks.work import write_settings
from prorank_jax.machine import may_use_accelerator
from prorank_jax.storage_faults import TooLittleMemoryError
from tests.cpu.benchmarks.command_lines import comparison
from tests.cpu.benchmarks.stand_ins import PATIENCE, diary, stand_in_command
from tests.cpu.tiny_run import load_launcher

SETTINGS = dict.fromkeys(TASKS["grpo"].summarized, 1)
QUIET = Console(quiet=True)


def _compare(folder, ours=None, peer=None, rounds=3):
    options = BenchmarkOptions(peer="trl", rounds=rounds, timeout=PATIENCE)
    commands = {
        "ours": stand_in_command("ours", folder, **(ours or {})),
        "trl": stand_in_command("trl", folder, **(peer or {})),
    }
    return compare_sides("grpo", TASKS["grpo"], options, SETTINGS, commands, folder, QUIET)


def test_a_dataset_that_is_not_there_is_refused_before_the_peer_is_installed(monkeypatch):
    monkeypatch.setattr(command, "peer_python", lambda *_: pytest.fail("installed"))
    with pytest.raises(ValueError, match="'nowhere:dev'"):
        command.run_comparison(*comparison("grpo --dataset nowhere:dev"), QUIET)


@pytest.mark.parametrize("line", ["grpo", "grpo --peer tunix", "ranking", "scoring"])
def test_a_tpu_is_refused_before_the_peer_is_installed(line, monkeypatch):
    monkeypatch.setattr(command, "peer_python", lambda *_: pytest.fail("installed"))
    monkeypatch.setattr(loading, "may_use_tpu", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(ValueError, match=r"JAX_PLATFORMS='tpu': .* on the TPU .*; set JAX_PLATFORMS=cpu to"):
        command.run_comparison(*comparison(line), QUIET)


def test_both_sides_are_prepared_checked_and_measured_in_turn(tmp_path):
    result = _compare(tmp_path, {"seconds": [9, 1, 2, 4]}, {"seconds": [9, 4, 4, 4]})
    asked = diary(tmp_path)
    ready = ["ours load", "trl load", "ours prepare", "trl prepare", "ours check", "trl check"]
    assert asked[:6] == ready
    turns = ["ours", "trl", "trl", "ours", "ours", "trl", "trl", "ours"]
    assert asked[6:] == [f"{side} round" for side in turns] + ["ours yardstick", "trl yardstick"]
    assert result.ours.facts["peak_flops"] == 7
    assert (result.ratio.median, result.ratio.min, result.ratio.max) == (2, 1, 4)
    assert (result.ours.seconds, result.peer.seconds) == (2, 4)
    assert "ours ÷ trl: 2.00 (1.00 to 4.00) in prompts/s; 2 checked values" in verdict(result)


def test_a_machine_whose_speed_cannot_be_measured_loses_no_rounds(tmp_path):
    """The products of the yardstick may find no room beside what both sides hold by then."""
    result = _compare(tmp_path, {"seconds": [1], "yardstick_fault": True}, {"seconds": [3]}, rounds=2)
    assert result.ratio.median == 3
    assert "peak_flops" not in result.ours.facts
    assert as_json(result)["sides"]["ours"]["share_of_peak"] is None


def test_the_result_as_json_holds_the_ratio_and_every_round(tmp_path):
    facts = {"flops_per_round": 3e9, "peak_flops": 1e10}
    result = _compare(tmp_path, {"seconds": [1]}, {"seconds": [3]}, rounds=2)
    result = dataclasses.replace(result, ours=dataclasses.replace(result.ours, facts=facts))
    content = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert content["ratio"] == {"median": 3, "min": 3, "max": 3}
    assert content["sides"]["ours"]["share_of_peak"] == pytest.approx(0.3)
    assert content["sides"]["trl"]["share_of_peak"] is None
    assert content["sides"]["trl"]["compile_seconds"] == 2.5
    assert [done["seconds"] for done in content["sides"]["trl"]["rounds"]] == [3, 3]
    assert content["check"]["tolerance"] == 1e-3


@pytest.mark.parametrize("several", [True, False])
def test_the_console_names_the_micro_batch_taken(several, monkeypatch):
    def write(*_):
        return {"peer_batch": 8, "peer_batches": [8, 16][: 1 + several]}

    def tune(_, settings, *__):
        settings["peer_batch"] = 16
        return {8: 2.0, 16: 1.0}

    said = io.StringIO()
    monkeypatch.setitem(TASKS, "grpo", dataclasses.replace(TASKS["grpo"], write=write))
    monkeypatch.setattr(command, "peer_python", lambda *_: sys.executable)
    monkeypatch.setattr(command, "tune_peer", tune)
    monkeypatch.setattr(command, "compare_sides", lambda *_: pytest.fail("measured"))
    with pytest.raises(pytest.fail.Exception, match="measured"):
        command.run_comparison(*comparison("grpo --quick"), Console(file=said, width=200))
    assert f"trl: takes micro-batch {16 if several else 8}" in said.getvalue()


@pytest.mark.parametrize(
    ("full", "taken"), [([], 16), (["16"], 32), (["16", "32"], 8), (["8", "16", "32"], 0)]
)
def test_the_fastest_micro_batch_that_finds_room_beside_our_side_is_taken(full, taken, tmp_path):
    """Each was measured alone."""
    seconds = {"8": 3.0, "16": 1.0, "32": 2.0}
    options = BenchmarkOptions(peer="trl", rounds=1, timeout=PATIENCE)
    fault = dict.fromkeys(full, "finds no room")
    commands = {
        "ours": stand_in_command("ours", tmp_path),
        "trl": stand_in_command("trl", tmp_path, seconds_of_batch=seconds, fault_of_batch=fault),
    }
    tuned = {int(size): time for size, time in seconds.items()}
    settings = {**SETTINGS, "peer_batch": 16, "peer_batch_seconds": tuned}
    write_settings(tmp_path, settings)
    said: list[str] = []

    def compare() -> BenchmarkResult:
        return compare_sides("grpo", TASKS["grpo"], options, settings, commands, tmp_path, QUIET)

    if not taken:
        with pytest.raises(TooLittleMemoryError, match="trl"):
            with_room(settings, tmp_path, compare, said.append)
        return
    assert with_room(settings, tmp_path, compare, said.append).peer.seconds == seconds[str(taken)]
    assert settings["peer_batch"] == taken
    assert sum("next fastest micro-batch" in told for told in said) == len(full)


def test_sides_that_disagree_are_not_measured(tmp_path):
    with pytest.raises(ValueError, match=r"value 1 is -20 by ours and -20.1 by trl"):
        _compare(tmp_path, {"values": [1, -20]}, {"values": [1, -20.1]})
    assert not [entry for entry in diary(tmp_path) if entry.endswith("round")]


def test_a_timed_program_that_disagrees_with_a_plain_computation_is_not_measured(tmp_path):
    own = {"timed": [0.5, 1.0], "plain": [0.5, 1.1]}
    with pytest.raises(
        ValueError, match=r"value 1 is 1 by the timed program of ours and 1.1 by a plain comp"
    ):
        _compare(tmp_path, {"own": own})
    assert not [entry for entry in diary(tmp_path) if entry.endswith("round")]


@pytest.mark.parametrize("own", [{}, {"timed": [1.0, 2.0, 3.0], "plain": [1.0, 2.0, 3.0006]}])
def test_a_result_tells_of_the_check_of_its_timed_program_where_there_is_one(own, tmp_path):
    result = _compare(tmp_path, {"own": own}, rounds=1)
    told = as_json(result)["own_check"]
    if own:
        assert told == {"values": 3, "largest_difference": pytest.approx(2e-4), "tolerance": 1e-3}
        assert "; our timed step's 3 at most 2.0e-04" in verdict(result)
    else:
        assert told is None
        assert "timed" not in verdict(result)


def test_sides_on_different_devices_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match=r"device: ours on cpu, trl on NVIDIA H100: .*make setup-cuda"):
        _compare(tmp_path, peer={"device": "NVIDIA H100"})
    assert diary(tmp_path) == ["ours load", "trl load"]  # preparing takes minutes


def test_a_side_that_computes_in_another_dtype_is_not_compared(tmp_path):
    with pytest.raises(ValueError, match=r"dtype='float32': trl computes in bfloat16 here.*--dtype bfloat16"):
        _compare(tmp_path, peer={"dtype": "bfloat16"})
    assert diary(tmp_path) == ["ours load", "trl load"]


@pytest.mark.parametrize("precision", [None, "default", "tensorfloat32", "high"])
def test_a_side_that_multiplies_float32_with_less_precision_is_not_compared(precision, tmp_path):
    with pytest.raises(ValueError, match=rf"dtype='float32': trl multiplies .* precision {precision!r} here"):
        _compare(tmp_path, peer={"precision": precision})
    assert diary(tmp_path) == ["ours load", "trl load"]


def test_a_result_has_what_a_side_says_when_loaded_and_when_ready(tmp_path):
    facts = _compare(tmp_path).peer.facts
    assert (facts["device"], facts["precision"]) == ("cpu", "highest")
    assert facts["tried"] == 3


def test_a_side_that_dies_ends_the_benchmark_and_the_other_side(tmp_path, capsys):
    with pytest.raises(ValueError, match="trl: asked to round: ended with exit code 7"):
        _compare(tmp_path, peer={"fault": "dies"})
    assert "trl: out of luck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "the following arguments are required: task"),
        ("sorting", "sorting"),
        ("grpo --peer mxbai", "peer='mxbai': choose one of trl, tunix"),
        ("grpo --rounds 0", "rounds=0: must be at least 1"),
        ("grpo --warmup -1", "warmup=-1: must be at least 0"),
        ("grpo --prompts 3", "prompts=3: an even number above 0"),
        ("grpo --group_size 1", "group_size=1: must be at least 2"),
        ("grpo --new_tokens 0", "new_tokens=0: must be at least 1"),
        ("grpo --peer_batch 7", "peer_batch=[7]: each must divide the 128 sequences of a step"),
        (
            "grpo --peer tunix --peer_batch 16 8",
            "peer_batch=[16, 8]: tunix cuts between groups only: give multiples of group_size=16",
        ),
        ("grpo --dtype float16", "dtype='float16': choose one of float32, bfloat16"),
        ("grpo --remat some", "remat='some': choose one of"),
        ("grpo --attention some", "attention='some': choose one of xla, splash, cudnn"),
        ("grpo --timeout 0", "timeout=0.0: must be a finite number above 0"),
        ("grpo --output nowhere/result.json", "there is no folder 'nowhere'; make it first"),
        ("grpo --output .", "output='.': is there already"),
    ],
)
def test_bad_input_is_refused_before_anything_is_set_up(arguments, complaint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"(?s).*") as caught:
        comparison(arguments)
    assert complaint in str(caught.value)


def test_an_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root
    with pytest.raises(ValueError, match="cannot be written to"):
        BenchmarkOptions(peer="trl", output=tmp_path / "result.json")


def test_quick_means_one_round_of_a_small_step_unless_more_is_asked():
    _, options, size = comparison("grpo --quick")
    assert (options.rounds, options.quick, size.prompts, size.group_size) == (1, True, 2, 4)
    _, options, size = comparison("grpo --quick --rounds 2 --group_size 6")
    assert (options.rounds, size.group_size, size.peer_batches) == (2, 6, (6,))


@pytest.mark.parametrize(
    ("has_gpu", "line", "attention"),
    [
        (False, "{task}", "xla"),
        (False, "{task} --attention cudnn --dtype bfloat16", "cudnn"),
        (True, "{task} --dtype bfloat16", "cudnn"),
        (True, "{task} --dtype float32", "xla"),
        (True, "{task} --dtype bfloat16 --attention xla", "xla"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_our_side_attends_through_cudnn_where_it_can(has_gpu, line, attention, task, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")  # as the tests' process has it, no GPU would be used
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(prorank_jax.benchmarks.options, "has_cuda", lambda: has_gpu)
    assert comparison(line.format(task=task))[2].attention == attention


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", "-1"), ("CUDA_VISIBLE_DEVICES", ""), ("JAX_PLATFORMS", "cpu")],
)
@pytest.mark.parametrize("task", TASKS)
def test_with_the_gpu_hidden_the_defaults_are_those_of_a_cpu(name, value, task, tmp_path, monkeypatch):
    """As where two sides on different devices are told to hide it."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    options = prorank_jax.benchmarks.options
    monkeypatch.setattr(options, "has_cuda", lambda: True)
    monkeypatch.setattr(options, "may_use_accelerator", lambda: may_use_accelerator(os.environ, tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _, shared, own = comparison(task)
    assert (shared.dtype, own.attention) == ("bfloat16", "cudnn")
    monkeypatch.setenv(name, value)
    _, shared, own = comparison(task)
    assert (shared.dtype, own.attention) == ("float32", "xla")
    assert comparison(f"{task} --dtype bfloat16")[2].attention == "xla"


def test_the_launcher_says_what_is_wrong_in_one_line(capsys):
    assert load_launcher("benchmark").main(["grpo", "--peer", "nobody"]) == 2
    assert capsys.readouterr().err == "error: peer='nobody': choose one of trl, tunix\n"


def test_every_side_has_its_program_and_every_peer_its_requirements():
    peers = command.ROOT / "launch" / "peers"
    for name, task in TASKS.items():
        for side in ("ours", *task.peers):
            assert (peers / f"{side.replace('-', '_')}_{name}.py").is_file()
        for peer in task.peers:
            lines = (peers / f"requirements-{peer}.txt").read_text().splitlines()
            pins = [line for line in lines if line and not line.startswith("#")]
            assert pins
            assert all("==" in pin for pin in pins)


@pytest.mark.parametrize("task", sorted(ALONE))
def test_what_needs_no_peer_is_run_with_its_own_options(task, monkeypatch):
    summary, add_arguments, _ = ALONE[task]
    told: list[str] = []
    monkeypatch.setitem(
        command.ALONE, task, (summary, add_arguments, lambda given, _: told.append(given.model))
    )
    run_benchmark([task, "--model", "some/model"])
    assert told == ["some/model"]
