"""What real processes do together without a run; tests/cpu/test_agreement.py has the parts."""

from __future__ import annotations

import pytest

from prorank_jax.run_folder import CHECKPOINTS_FOLDER
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


UNREADABLE_IN_THE_SECOND = """
import sys
from pathlib import Path
from tests.cpu.tiny_run import load_launcher

load_launcher().join_peers()

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.types import TrainState

everywhere = Mesh(jax.devices(), "all")
shared, whole = (NamedSharding(everywhere, PartitionSpec(*axes)) for axes in (["all"], []))

def state(step):
    return TrainState(
        step=jax.device_put(jnp.int32(step), whole),
        params={"w": jax.device_put(jnp.arange(16.0) * step, shared)},
        opt_state=(),
    )

with Checkpoints(Path(sys.argv[1]), keep=3) as checkpoints:
    for step in (1, 2):
        checkpoints.save(state(step), step, {"at": step}, {}, {})

read = ocp.CompositeCheckpointHandler.restore
def read_only_the_first(self, folder, *args, **kwargs):
    if jax.process_index() == 1 and folder.name == "2":
        raise ValueError("a piece that only this process reads is damaged")
    return read(self, folder, *args, **kwargs)
ocp.CompositeCheckpointHandler.restore = read_only_the_first

with Checkpoints(Path(sys.argv[1]), keep=3) as checkpoints:
    (restored, iterator), step = checkpoints.restore_newest(state(0))
    mine = [float(piece.data[0]) for piece in restored.params["w"].addressable_shards]
    print("restored", step, iterator["at"], mine)
    checkpoints.save(state(2), 2, {"at": 2}, {}, {})
    print("newest", checkpoints.latest())
"""


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_skipped_by_all(tmp_path):
    ended = wait_for(start([["-c", UNREADABLE_IN_THE_SECOND, str(tmp_path)]] * 2))
    assert ended.codes == [0, 0], ended.said
    for said, first in zip(ended.said, (0.0, 8.0), strict=True):
        assert f"restored 1 1 {[first + 2 * place for place in range(4)]}" in said
        assert "newest 2" in said
        assert "a piece that only this process reads is damaged" in said
    assert (tmp_path / CHECKPOINTS_FOLDER / "2.damaged").is_dir()


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
