"""What Linux would still give: of the machine's memory, and of the limits of control groups, v1 and v2."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.host_memory import free_memory

KIB, MIB = 1024, 1024 * 1024
MACHINE = "MemTotal: 9000 kB\nMemFree:  100 kB\nMemAvailable:   7000 kB\nSwapFree:  500 kB\n"
OF_MACHINE = 7500 * KIB


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": MACHINE} | files).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v2(group: str, limit: int | str, used: int, reclaimable: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup{group}"
    stat = f"anon {used - reclaimable}\nfile {reclaimable}\ninactive_file {reclaimable}\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def v1(group: str, limit: int, used: int, reclaimable: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {reclaimable}\n",
    }


IN_JOB = {"proc/self/cgroup": "0::/jobs/one\n"}
IN_OLD_JOB = {"proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/jobs/one\n0::/\n"}
NO_LIMIT_V1 = 9223372036854771712


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, OF_MACHINE),
        (IN_JOB, OF_MACHINE),
        (IN_JOB | v2("/jobs/one", "max", MIB), OF_MACHINE),
        (IN_JOB | v2("/jobs/one", 3 * MIB, MIB), 2 * MIB),
        (IN_JOB | v2("/jobs/one", 3 * MIB, 2 * MIB, reclaimable=MIB), 2 * MIB),
        (IN_JOB | v2("/jobs/one", "max", MIB) | v2("/jobs", 4 * MIB, 3 * MIB), MIB),
        (IN_JOB | v2("", 5 * MIB, MIB), 4 * MIB),  # a container that sees only its own group, at the top
        (IN_JOB | v2("/jobs/one", 3 * MIB, 4 * MIB), 0),
        (IN_JOB | v2("/jobs/two", MIB, MIB), OF_MACHINE),
        (IN_OLD_JOB | v1("/jobs/one", NO_LIMIT_V1, MIB), OF_MACHINE),
        (IN_OLD_JOB | v1("/jobs/one", 3 * MIB, 2 * MIB, reclaimable=MIB), 2 * MIB),
        (IN_OLD_JOB | v1("", 5 * MIB, MIB), 4 * MIB),
    ],
)
def test_the_least_of_what_the_machine_and_each_group_leave(files, free, tmp_path):
    assert free_memory(write(tmp_path, files)) == free


def test_a_system_that_does_not_say(tmp_path):
    assert free_memory(tmp_path) is None
    assert free_memory(write(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\n"})) is None


def test_this_machine():
    free = free_memory()
    assert (free is None) == (not Path("/proc/meminfo").exists())
    assert free is None or free > 16 * MIB
