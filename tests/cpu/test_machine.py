"""What a launcher concludes from environment variables and device files."""

from __future__ import annotations

from pathlib import Path

import pytest

from prorank_jax.machine import (
    distributed_arguments,
    may_have_accelerator,
    may_use_accelerator,
    may_use_nvidia,
    may_use_tpu,
    skip_absent_tpu,
)

THREE = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_three_variables_name_the_peers():
    arguments = distributed_arguments(THREE)
    assert arguments is not None
    assert arguments["coordinator_address"] == "10.0.0.1:8476"
    assert (arguments["num_processes"], arguments["process_id"]) == (4, 3)


def test_a_pod_leaves_the_rest_to_jax():
    arguments = distributed_arguments({"TPU_WORKER_HOSTNAMES": "t1v-w-0,t1v-w-1"})
    assert arguments is not None
    assert "coordinator_address" not in arguments


@pytest.mark.parametrize(
    "environment", [{}, {"TPU_WORKER_HOSTNAMES": "localhost"}, {"JAX_COORDINATOR_ADDRESS": "x:1"}]
)
def test_elsewhere_there_is_nobody_to_wait_for(environment):
    assert distributed_arguments(environment) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID: not set.*set all three"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS: not set"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "HOST:PORT"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4: from 0 to .*3"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1': a whole number"),
        ({"JAX_NUM_PROCESSES": "0", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=0"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two'"),
    ],
)
def test_half_a_description_of_the_peers_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        distributed_arguments(THREE | changes)


def add_pci_device(root: Path, vendor: str, device: str) -> None:
    folder = root / "sys/bus/pci/devices" / f"0000:{device}"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")


@pytest.mark.parametrize(
    ("vendor", "device"), [("0x1ae0", "0x0042"), ("0x1ae0", "0x001f"), ("0x8086", "0x0063")]
)
def test_the_disk_and_network_of_a_cloud_machine_are_no_accelerator(vendor, device, tmp_path):
    add_pci_device(tmp_path, vendor, device)
    assert not may_have_accelerator(tmp_path)


@pytest.mark.parametrize("device", ["0x0063", "0x006f", "0x0999"])
def test_any_other_device_of_google_may_be_a_tpu(device, tmp_path):
    add_pci_device(tmp_path, "0x1ae0", device)
    assert may_have_accelerator(tmp_path)


@pytest.mark.parametrize("file", ["accel0", "vfio/0", "nvidia0", "kfd"])
def test_device_files_tell_in_containers(file, tmp_path):
    (tmp_path / "dev" / file).parent.mkdir(parents=True)
    (tmp_path / "dev" / file).touch()
    assert may_have_accelerator(tmp_path)


@pytest.fixture
def libtpu(tmp_path, monkeypatch) -> None:
    """A libtpu that can be found; it must not be run."""
    (tmp_path / "packages" / "libtpu").mkdir(parents=True)
    (tmp_path / "packages" / "libtpu" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.syspath_prepend(tmp_path / "packages")


@pytest.mark.usefixtures("libtpu")
def test_libtpu_is_left_alone_where_it_could_do_nothing(tmp_path):
    environment: dict[str, str] = {}
    skip_absent_tpu(environment, tmp_path)
    assert environment == {"JAX_PLATFORMS": "cpu"}


@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize("name", ["JAX_PLATFORMS", "TPU_WORKER_HOSTNAMES", "TPU_LIBRARY_PATH"])
def test_what_the_user_says_stands(name, tmp_path):
    environment = {name: "tpu"}
    skip_absent_tpu(environment, tmp_path)
    assert environment == {name: "tpu"}


@pytest.mark.usefixtures("libtpu")
def test_a_tpu_is_found(tmp_path):
    add_pci_device(tmp_path, "0x1ae0", "0x0062")
    environment: dict[str, str] = {}
    skip_absent_tpu(environment, tmp_path)
    assert environment == {}


def add_device_file(root: Path, name: str) -> None:
    (root / "dev").mkdir()
    (root / "dev" / name).touch()


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, True),
        ({"CUDA_VISIBLE_DEVICES": "1"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0,-1"}, True),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"CUDA_VISIBLE_DEVICES": "-1,0"}, False),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, False),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c"}, True),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-8932f937/1/0"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),
        ({"JAX_PLATFORMS": "cpu,cuda"}, False),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True),
    ],
)
def test_a_gpu_that_is_hidden_is_not_used(environment, seen, tmp_path):
    add_device_file(tmp_path, "nvidia0")
    assert may_use_nvidia(environment) == seen
    assert may_use_accelerator(environment, tmp_path) == seen
    assert may_have_accelerator(tmp_path)


@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize("file", ["accel0", "kfd"])
def test_hiding_nvidias_gpus_hides_nothing_else(file, tmp_path):
    add_device_file(tmp_path, file)
    assert may_use_accelerator({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path)
    assert not may_use_accelerator({"JAX_PLATFORMS": "cpu"}, tmp_path)


@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize(
    ("environment", "file", "taken"),
    [
        ({}, "accel0", True),
        ({"JAX_PLATFORMS": ""}, "accel0", True),
        ({"JAX_PLATFORMS": "tpu,cpu"}, "accel0", True),
        ({"JAX_PLATFORMS": "cpu"}, "accel0", False),
        ({"JAX_PLATFORMS": "cpu,tpu"}, "accel0", False),
        ({"JAX_PLATFORMS": "cuda"}, "accel0", False),
        ({}, "nvidia0", False),
    ],
)
def test_jax_takes_a_tpu_unless_told_otherwise(environment, file, taken, tmp_path):
    add_device_file(tmp_path, file)
    assert may_use_tpu(environment, tmp_path) == taken


def test_without_libtpu_a_tpu_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("prorank_jax.machine.importlib.util.find_spec", lambda _: None)
    add_device_file(tmp_path, "accel0")
    assert not may_use_tpu({}, tmp_path)
    assert not may_use_accelerator({}, tmp_path)
    assert may_use_tpu({"TPU_LIBRARY_PATH": "/opt/libtpu.so"}, tmp_path)
