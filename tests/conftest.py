"""Settles, before jax is imported, that the tests run on the CPU and see eight devices of it.

Workers of pytest-xdist and the processes that tests start inherit what is settled here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# What is traced need not know the lines it came from: 7% of the time of tests that compile.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if version("jaxlib").startswith("0.10."):
    # Tiny programs compile three times as fast so; XLA aborts where it does not know a flag.
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
# ranx compiles for ten seconds in every process that measures; what is compiled, .ci/run evaluates with.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests run the same small programs, each in processes of its own: a fifth of the time was compiling.
    programs = tempfile.mkdtemp(prefix="prorank-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
from hypothesis import settings

from tests.garbage import collect_seldom

SIMULATED_DEVICES = 8

jax.config.update("jax_num_cpu_devices", SIMULATED_DEVICES)
collect_seldom()
settings.register_profile("first example compiles", deadline=None)
settings.load_profile("first example compiles")
