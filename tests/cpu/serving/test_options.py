"""Options that cannot work are refused by name."""

from __future__ import annotations

import math

import pytest

from prorank_jax.serving.options import ServerOptions


def test_the_default_is_loopback():
    assert ServerOptions(model="m").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("host", ""),
        ("port", -1),
        ("port", 65536),
        ("served_model_name", ""),
        ("excerpts", "tail"),
        ("calibration", ""),
        ("max_length", 3),
        ("compute_dtype", "float8"),
        ("attention", "flash"),
        ("warmup", "none"),
        ("max_body_bytes", 0),
        ("max_documents", 0),
        ("max_batch_pairs", 0),
        ("max_queue_pairs", 999),
        ("max_held_bytes", 1000),
        ("max_connections", 0),
        ("batch_wait_ms", -1.0),
        ("batch_wait_ms", math.nan),
        ("request_timeout_s", 0.0),
        ("hang_timeout_s", 0.0),
        ("client_timeout_s", math.inf),
        ("keep_alive_s", 0.0),
        ("drain_delay_s", -1.0),
        ("drain_delay_s", math.nan),
        ("shutdown_timeout_s", math.nan),
    ],
)
def test_values_that_cannot_work_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: "):
        ServerOptions(**({"model": "m"} | {name: value}))
