"""Compiles one step for one slice and gathers what is known of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo

from prorank_jax.aot.chips import Topology
from prorank_jax.aot.gpu_target import CUDNN_VERSION
from prorank_jax.aot.hlo import parse_program
from prorank_jax.aot.jaxpr_flops import count_flops
from prorank_jax.aot.memory import planned_memory, refusal
from prorank_jax.aot.programs import StepProgram, build_program, topology_mesh
from prorank_jax.aot.report import StepReport
from prorank_jax.aot.roofline import roofline_of
from prorank_jax.aot.traffic import program_traffic
from prorank_jax.config import RunConfig
from prorank_jax.models.config import ModelConfig


def compile_program(
    program: StepProgram, compiler_options: dict[str, str] | None = None
) -> tuple[Any, Any, float]:
    """The traced and the compiled step, and the seconds that took.

    Args:
        compiler_options: XLA's, beside those of the environment.

    Raises:
        JaxRuntimeError: the compiler refuses it; `memory.refusal` says whether for want of memory.
    """
    started = time.perf_counter()
    # A concrete mesh would want its devices, which are not there.
    with jax.sharding.use_abstract_mesh(program.mesh.abstract_mesh):
        traced = program.step.trace(*program.arguments)
        compiled = traced.lower().compile(compiler_options=compiler_options)
    return traced, compiled, time.perf_counter() - started


def compile_report(config: RunConfig, which: str, topology: Topology, shape: ModelConfig) -> StepReport:
    """Compiles a config's step for a slice; a step that does not fit gives a report that says so.

    Args:
        which: one of `options.STEPS`.
        shape: of the model.

    Raises:
        ValueError: sizes that do not fit each other, a slice that libtpu does not know, or attention that the
            chip does not have.
    """
    program = build_program(config, which, shape, topology_mesh(topology, config))
    chip = topology.chip
    facts: dict[str, Any] = {
        "topology": topology.name,
        "step": which,
        "model": config.model.source,
        "shape": program.shape,
        "mesh": dict(program.mesh.shape),
        "settings": _settings(config, which),
        "chips": topology.chips,
        "devices_per_chip": chip.devices,
        "parameters": program.parameters,
        "prompts": program.prompts,
        "capacity": chip.device_bytes,
        "model_flops": program.model_flops,
    }
    started = time.perf_counter()
    try:
        with _cudnn_of_the_target():
            traced, compiled, seconds = compile_program(program)
    except jax.errors.JaxRuntimeError as error:
        refused = refusal(str(error))
        if refused is None:
            raise
        return StepReport(
            **facts,
            compile_seconds=time.perf_counter() - started,
            needed=refused.used,
            fits=False,
            memory=None,
            executed_flops=None,
            hbm_bytes=None,
            sent_bytes=None,
            unknown_loops=(),
            roofline=None,
        )
    memory = planned_memory(compiled)
    executed = count_flops(traced.jaxpr)
    traffic = program_traffic(parse_program(compiled.as_text()), topology.devices)
    return StepReport(
        **facts,
        compile_seconds=seconds,
        needed=memory.peak,
        fits=memory.peak <= facts["capacity"],
        memory=memory,
        executed_flops=executed,
        hbm_bytes=traffic.hbm,
        sent_bytes=dict(traffic.sent),
        unknown_loops=tuple(traffic.unknown_loops),
        roofline=roofline_of(
            chip,
            topology.chips,
            model_flops=program.model_flops,
            executed_flops=executed,
            hbm_bytes=traffic.hbm * chip.devices,
            sent_bytes=sum(traffic.sent.values()) * chip.devices,
            tokens=program.tokens,
            prompts=program.prompts,
        ),
    )


@contextmanager
def _cudnn_of_the_target() -> Iterator[None]:
    """Tells jax the version of the target's cuDNN; it asks the one of this machine, which need not have any.

    It does so when attention is traced, only to refuse what an old version lacks.
    """
    major, minor = CUDNN_VERSION
    before = fused_attention_stablehlo.check_cudnn_version
    fused_attention_stablehlo.check_cudnn_version = lambda: major * 10_000 + minor * 100
    try:
        yield
    finally:
        fused_attention_stablehlo.check_cudnn_version = before


def _settings(config: RunConfig, which: str) -> dict[str, Any]:
    """The knobs that decide memory and time."""
    settings: dict[str, Any] = {
        "compute_dtype": config.model.compute_dtype,
        "attention": config.model.attention,
    }
    if which == "score":
        return settings
    settings |= {"remat": config.model.remat, "accumulation": config.train.accumulation}
    return settings | ({"lora.rank": config.lora.rank} if config.lora.rank else {})
