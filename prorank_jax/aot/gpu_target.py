"""What XLA's compiler must know of a GPU that is not there.

Limits of the multiprocessor are those of compute capability 9.0 in NVIDIA's CUDA C++ Programming Guide
("Compute Capabilities"), counts, clock and cache those of its white paper on the H100 (SXM5).
"""

from __future__ import annotations

CUDA_VERSION = 13
# A cuDNN that has every kernel used here; the compiler only asks whether it is recent enough.
CUDNN_VERSION = (9, 10)
_LIMITS_9_0 = {
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
    "shared_memory_per_core": 228 * 1024,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "fpus_per_core": 128,
}
_DEVICES: dict[str, dict[str, float]] = {
    "h100": {
        "core_count": 132,
        "clock_rate_ghz": 1.98,
        "l2_cache_size": 50 * 2**20,
        "memory_bandwidth": 3350 * 10**9,
        "device_memory_size": 80 * 10**9,
    },
}


def gpu_target_config(chip_name: str) -> str:
    """The text form of XLA's `GpuTargetConfigProto` of a GPU.

    Args:
        chip_name: a GPU of `chips.CHIPS`.
    """
    limits = "\n".join(f"  {name}: {value}" for name, value in (_LIMITS_9_0 | _DEVICES[chip_name]).items())
    major, minor = CUDNN_VERSION
    return (
        f"gpu_device_info {{\n{limits}\n  cuda_compute_capability {{ major: 9 }}\n}}\n"
        f'platform_name: "CUDA"\n'
        f"runtime_version {{ major: {CUDA_VERSION} }}\n"
        f"dnn_version_info {{ major: {major} minor: {minor} }}\n"
        f'device_description_str: "{chip_name}"\n'
    )
