"""Prints the most memory that one point's step took, in a process of its own: nothing else is counted."""

from __future__ import annotations

import json
import sys
from typing import Any

from prorank_jax.aot.model_shapes import resolve_shape
from prorank_jax.benchmarks.growth_points import Point, Size
from prorank_jax.benchmarks.growth_step import build, filled_state, prepare
from prorank_jax.config import ModelOptions
from prorank_jax.device_memory import peak_bytes


def measure_peak(wanted: dict[str, Any]) -> int:
    """Bytes of the process, or of the device where it counts, after one run: see `peak_memory`.

    Args:
        wanted: `program`, `size`, and `options`, dotted fields of the config; of them `model.source`.
    """
    point = Point(wanted["program"], "", 0, Size(**wanted["size"]))
    options = wanted["options"]
    shape = resolve_shape(options.get("model.source", ModelOptions.source))
    program = build(point, shape, options)
    step = prepare(program, point, shape)
    step.run(filled_state(program.arguments[0]))
    return peak_bytes()


if __name__ == "__main__":
    print(measure_peak(json.loads(sys.argv[1])))
