"""Prints how fast a finished run was beside the estimate for its compiled step: `speed.py CHIP:SHAPE ARGS`.

ARGS are those of tpu_train.py. The estimate is by aot_compile.py for the same topology.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository need not be installed

from prorank_jax.command_line import run_command

LAUNCH = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Prints the measured speed, then runs aot_compile.py; returns its exit code, or 2 for bad input."""
    return run_command(lambda: _compare_with_estimate(*arguments))


def _compare_with_estimate(topology: str, *rest: str) -> int:
    from etils import epath

    from prorank_jax.aot.chips import parse_topology
    from prorank_jax.config_files import load_config, parse_command_line
    from prorank_jax.metrics_log import METRICS_FILE

    output_dir = load_config(*parse_command_line(list(rest))).output_dir
    lines = (epath.Path(output_dir) / METRICS_FILE).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # The first step, and one that compiled, say nothing of the speed.
    warm = [new for old, new in itertools.pairwise(records) if _same_programs(old, new)]
    if not warm:
        raise ValueError(f"{output_dir}: no step ran without compiling; take more steps")
    slice_ = parse_topology(topology)
    tokens, tflops = (
        statistics.median(record[name] for record in warm) for name in ("tokens_per_second", "model_tflops")
    )
    # The estimate's tokens count padding, these do not; both MFUs count it.
    mfu = tflops * 1e12 / slice_.chips / slice_.chip.bf16_flops
    print(
        f"measured on {topology}: MFU {mfu:.1%}; {tokens:,.0f} tokens/s without padding, "
        f"{tokens / slice_.chips:,.0f} a chip (medians of {len(warm)} steps)",
        flush=True,
    )
    program = [sys.executable, str(LAUNCH / "aot_compile.py"), "--topology", topology, *rest]
    return subprocess.run(program, check=False).returncode


def _same_programs(before: dict[str, float], after: dict[str, float]) -> bool:
    return before["compilations"] == after["compilations"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
