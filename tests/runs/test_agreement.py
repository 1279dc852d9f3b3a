"""What real processes do together without a run; tests/cpu/test_agreement.py has the parts."""

from __future__ import annotations

import pytest

from tests.runs.several import start, wait_for

GATHER_OFTEN = """
import time
from tests.cpu.tiny_run import load_launcher

load_launcher().join_peers()

import jax
from prorank_jax.processes import gather_texts

for call in range(3):
    time.sleep(jax.process_index())
    print(gather_texts(f"{call} of {jax.process_index()}" * 10 ** call) == [
        f"{call} of {process}" * 10 ** call for process in range(2)
    ])
"""

FAIL_IN_THE_SECOND = """
import sys
from tests.cpu.tiny_run import load_launcher

load_launcher().join_peers()

import jax
from prorank_jax.command_line import run_command
from prorank_jax.processes import succeed_together

def work():
    with succeed_together():
        if jax.process_index() == 1:
            import no_such_module

sys.exit(run_command(work))
"""


@pytest.mark.slow
def test_real_processes_gather_again_and_again():
    ended = wait_for(start([["-c", GATHER_OFTEN]] * 2))
    assert ended.codes == [0, 0], ended.said
    assert all(said.split().count("True") == 3 for said in ended.said), ended.said


@pytest.mark.slow
def test_a_fault_in_one_real_process_ends_both_with_one():
    ended = wait_for(start([["-c", FAIL_IN_THE_SECOND]] * 2))
    assert ended.codes == [1, 1], ended.said
    told = "process 1 of 2: ModuleNotFoundError: No module named 'no_such_module'"
    assert f"error: {told}" in ended.said[0]
    assert "Traceback" not in ended.said[0]
    assert "Traceback" in ended.said[1]
    assert ", in work" in ended.said[1]
    assert told in ended.said[1]
