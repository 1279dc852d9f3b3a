from __future__ import annotations

import pytest

from prorank_jax.benchmarks.options import BenchmarkOptions
from prorank_jax.benchmarks.side_environment import side_environment


def test_sides_get_the_same_threads_and_a_peer_no_foreign_packages():
    given = {"PYTHONPATH": "/elsewhere", "HOME": "/home", "OMP_NUM_THREADS": "64"}
    options = BenchmarkOptions(peer="trl", threads=2)
    ours = side_environment(given, options, keeps_path=True)
    peer = side_environment(given, options, keeps_path=False)
    assert ours.pop("PYTHONPATH") == "/elsewhere"
    assert ours == peer
    assert (peer["OMP_NUM_THREADS"], peer["RAYON_NUM_THREADS"], peer["HOME"]) == ("2", "2", "/home")
    assert peer["TOKENIZERS_PARALLELISM"] == "true"  # where tokenizing is timed


@pytest.mark.parametrize("keeps_path", [True, False])
def test_float32_is_multiplied_in_float32_whatever_the_environment_says(keeps_path):
    given = {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32", "NVIDIA_TF32_OVERRIDE": "1"}
    of_float32, of_bfloat16 = (
        side_environment(given, BenchmarkOptions(peer="trl", dtype=dtype), keeps_path=keeps_path)
        for dtype in ("float32", "bfloat16")
    )
    assert of_float32["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert of_float32["NVIDIA_TF32_OVERRIDE"] == "0"
    assert of_bfloat16["JAX_DEFAULT_MATMUL_PRECISION"] == "tensorfloat32"


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "3,1"}, "3"), ({"CUDA_VISIBLE_DEVICES": "-1"}, "-1")],
)
def test_sides_get_one_gpu_and_the_same(given, seen):
    for keeps_path in (True, False):
        options = BenchmarkOptions(peer="trl")
        assert side_environment(given, options, keeps_path=keeps_path)["CUDA_VISIBLE_DEVICES"] == seen
