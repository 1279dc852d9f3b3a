"""Reports with chosen figures, and the model and the config that they could be of."""

from __future__ import annotations

from prorank_jax.aot.memory import COMPILER, Memory
from prorank_jax.aot.model_shapes import PUBLISHED_SHAPES
from prorank_jax.aot.report import StepReport
from prorank_jax.aot.roofline import Roofline
from prorank_jax.config_files import config_from_flat

QWEN = PUBLISHED_SHAPES["Qwen/Qwen2.5-0.5B-Instruct"]
CONFIG = config_from_flat(
    {
        "model.compute_dtype": "bfloat16",
        "model.remat": "full",
        "data.max_length": 512,
        "train.batch_size": 256,
        "mesh.data": 1,
        "mesh.fsdp": 8,
    }
)


def make_report(*, seconds: float = 1.0, fits: bool = True, compiled: bool = True) -> StepReport:
    """A report of 256 prompts a step; `compiled` false: the compiler refused."""
    memory = Memory(2**30, 0, 3 * 2**30, 2**20, 4 * 2**30, COMPILER)
    return StepReport(
        topology="v5e:2x4",
        step="1",
        model="some/model",
        shape="256 prompts",
        mesh={"data": 1, "fsdp": 8, "tensor": 1},
        settings={"remat": "full"},
        chips=8,
        devices_per_chip=1,
        parameters=500_000_000,
        prompts=256,
        compile_seconds=30.0,
        capacity=16 * 2**30,
        needed=4 * 2**30 if fits else 20 * 2**30,
        fits=fits,
        memory=memory if compiled else None,
        model_flops=10**15,
        executed_flops=2 * 10**15 if compiled else None,
        hbm_bytes=1e11 if compiled else None,
        sent_bytes={"all-gather": 1e9} if compiled else None,
        unknown_loops=(),
        roofline=Roofline(seconds, 0.1, 0.2, seconds, "compute", 0.5, 1e6, 256 / seconds)
        if compiled
        else None,
    )
