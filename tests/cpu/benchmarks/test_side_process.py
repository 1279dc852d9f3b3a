from __future__ import annotations

import os
import signal

import pytest

from prorank_jax.benchmarks import side_process
from prorank_jax.benchmarks.side_process import SideProcess
from prorank_jax.storage_faults import TooLittleMemoryError
from tests.cpu.benchmarks.stand_ins import diary, stand_in


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_side_answers_each_request_and_ends_with_the_block(tmp_path):
    with stand_in("a", tmp_path, seconds=[0.5]) as side:
        loaded = side.ask("load", work="here")
        assert loaded["facts"]["work"] == "here"
        assert side.ask("check") == {"values": [1.0, -20.0]}
        assert side.ask("round") == {"seconds": 0.5, "units": 4, "peak_bytes": 2**30}
    assert diary(tmp_path) == ["a load", "a check", "a round"]
    assert not _is_running(loaded["facts"]["pid"])


def test_what_libraries_print_to_stdout_is_no_answer(tmp_path):
    with stand_in("a", tmp_path, fault="chatters") as side:
        assert side.ask("check") == {"values": [1.0, -20.0]}
        assert side.ask("round")["units"] == 4
    said = (tmp_path / "a.stderr").read_text()
    assert said.count("99.0") == said.count("from a child") == 2


def test_a_side_that_dies_shows_its_last_words(tmp_path, capsys):
    with stand_in("torch", tmp_path, fault="dies") as side:
        side.ask("round")
        with pytest.raises(ValueError, match="torch: asked to round: ended with exit code 7") as caught:
            side.ask("round")
    assert "above" in str(caught.value)
    assert "torch: out of luck" in capsys.readouterr().err


def test_a_side_that_was_killed_before_a_request_is_reported(tmp_path):
    with stand_in("a", tmp_path) as side:
        os.kill(side.ask("load", work="")["facts"]["pid"], signal.SIGTERM)
        with pytest.raises(ValueError, match=r"exit code -15; it wrote nothing to stderr"):
            side.ask("check")


def test_a_side_that_linux_kills_lacked_memory(tmp_path):
    with stand_in("a", tmp_path) as side:
        os.kill(side.ask("load", work="")["facts"]["pid"], signal.SIGKILL)
        with pytest.raises(TooLittleMemoryError, match=r"too little memory \(a: asked to check: .*code -9"):
            side.ask("check")


@pytest.mark.parametrize(
    "last_words",
    [
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9.00 TiB for an array",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: could not create a memory object",
        "RuntimeError: std::bad_alloc",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
    ],
)
def test_a_side_that_ends_with_such_an_error_lacked_memory(last_words, tmp_path):
    said = f"Traceback (most recent call last):\n{last_words}\nRuntimeError: the training loop stopped"
    with stand_in("torch", tmp_path, fault="dies", last_words=said) as side:
        side.ask("round")
        with pytest.raises(TooLittleMemoryError):
            side.ask("round")


def test_a_side_that_hangs_is_given_up_and_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(side_process, "END_SECONDS", 1)
    with stand_in("slow", tmp_path, fault="hangs") as side:
        pid = side.ask("load", work="")["facts"]["pid"]
        side.ask("round")
        side._timeout = 0.5  # not from the start: a process may take seconds to begin
        with pytest.raises(ValueError, match=r"slow: asked to round: no answer within 0.5 seconds"):
            side.ask("round")
    assert not _is_running(pid)


def test_an_answer_that_is_no_json_is_refused(tmp_path):
    with stand_in("a", tmp_path, fault="babbles") as side:
        side.ask("round")
        with pytest.raises(ValueError, match="answered 'not json', no JSON object"):
            side.ask("round")


def test_an_unknown_request_is_the_sides_error(tmp_path, capsys):
    with (
        stand_in("a", tmp_path) as side,
        pytest.raises(ValueError, match="asked to dance: ended with exit code 1"),
    ):
        side.ask("dance")
    assert "do='dance': load, prepare, check, round, yardstick or end" in capsys.readouterr().err


def test_a_program_that_is_not_there_is_named(tmp_path):
    side = SideProcess("a", [str(tmp_path / "python")], timeout=1, log=tmp_path / "log")
    with pytest.raises(ValueError, match=r"a: cannot start .*No such file"), side:
        pass
