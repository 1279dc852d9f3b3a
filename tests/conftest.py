"""Settles, before jax is imported, that the tests run on the CPU and see eight devices of it."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import jax

SIMULATED_DEVICES = 8

jax.config.update("jax_num_cpu_devices", SIMULATED_DEVICES)
