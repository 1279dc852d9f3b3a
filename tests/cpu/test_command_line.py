"""Exit codes and what is said on the way; other faults of a program are not hidden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from prorank_jax.command_line import CommandParser, local_folder, run_command
from tests.cpu.tiny_run import REPOSITORY, load_launcher


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (143, 143)])
def test_the_exit_code_is_the_commands_own(result, code, capsys):
    assert run_command(lambda: result) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, PermissionError])
def test_bad_input_is_one_line(error, capsys):
    assert run_command(Mock(side_effect=error("field=3:\n  must be\t4"))) == 2
    assert capsys.readouterr() == ("", "error: field=3: must be 4\n")


@pytest.mark.parametrize(("hint", "said"), [("", "interrupted\n"), ("go on", "interrupted; go on\n")])
def test_ctrl_c_says_how_to_go_on(hint, said, capsys):
    assert run_command(Mock(side_effect=KeyboardInterrupt), interrupted=hint) == 130
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("fault", [RuntimeError, TypeError, AssertionError])
def test_a_fault_of_the_program_is_not_hidden(fault):
    with pytest.raises(fault):
        run_command(Mock(side_effect=fault))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --model"),
        (["--model"], "--model: expected one argument"),
        (["--mod", "m"], "required: --model"),
        (["--model", "m", "--count", "many"], "--count: invalid int value: 'many'"),
        (["--model", "m", "--nonsense"], "unrecognized arguments: --nonsense; --help shows the usage"),
    ],
)
def test_command_lines_that_cannot_be_read_are_value_errors(arguments, message):
    parser = CommandParser(prog="program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int)
    with pytest.raises(ValueError, match=message):
        parser.parse_args(arguments)


def test_a_folder_of_this_machine_is_no_url():
    parser = CommandParser(prog="program")
    parser.add_argument("--output_dir", type=local_folder)
    assert parser.parse_args(["--output_dir", "runs/x"]).output_dir == Path("runs/x")
    with pytest.raises(ValueError, match="--output_dir: 'gs://b/x' is a URL; name a folder on this machine"):
        parser.parse_args(["--output_dir", "gs://b/x"])


@pytest.mark.parametrize("launcher", ["evaluate", "compare", "export_hf", "aot_table"])
def test_results_for_a_url_are_refused_before_they_are_made(launcher, capsys):
    named = {"compare": ["a=b"], "aot_table": []}.get(launcher, ["--model", "m"])
    dataset = ["--dataset", "demo"] if launcher in ("evaluate", "compare") else []
    assert load_launcher(launcher).main([*named, *dataset, "--output_dir", "gs://b/x"]) == 2
    assert "--output_dir: 'gs://b/x' is a URL" in capsys.readouterr().err


def test_it_is_there_before_jax():
    code = "import sys, prorank_jax.command_line; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})


@pytest.mark.parametrize(("code", "torn_down"), [(130, ""), (2, "torn down\n"), (0, "torn down\n")])
def test_after_ctrl_c_a_process_ends_at_once(code, torn_down):
    """While XLA compiles, Python's way out crashes."""
    program = (
        "import atexit; from prorank_jax.command_line import leave; "
        f"atexit.register(print, 'torn down'); print('said', end=' '); leave({code})"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, f"said {torn_down}")
