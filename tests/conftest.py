"""Settles, before jax is imported, that the tests run on the CPU and see eight devices of it."""

from __future__ import annotations

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
if version("jaxlib").startswith("0.10."):
    # Tiny programs compile three times as fast so; XLA aborts where it does not know a flag.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax
from hypothesis import settings

SIMULATED_DEVICES = 8

jax.config.update("jax_num_cpu_devices", SIMULATED_DEVICES)
settings.register_profile("first example compiles", deadline=None)
settings.load_profile("first example compiles")
