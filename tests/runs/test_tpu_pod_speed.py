"""What `tpu_pod.sh benchmark` prints: the median of the steps that did not compile, and the estimate."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.runs.fake_cloud import REPOSITORY, FakeCloud
from tests.runs.stand_in_run import Steps

# Instead of the compiler for TPU: shows what it was asked.
ESTIMATE = "import sys; print('estimate of', *sys.argv[1:]); sys.exit(1)\n"


# Instead of speed.py on the workers: the checkout that they get has none of the library.
SPEED = "import sys; print('speed on', sys.argv[1])\n"


@pytest.fixture
def cloud(tmp_path) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path)
    cloud.make_checkout()
    (cloud.checkout / "launch" / "tpu_pod" / "speed.py").write_text(SPEED)
    yield cloud
    cloud.close()


@pytest.fixture
def speed(tmp_path, monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed", REPOSITORY / "launch" / "tpu_pod" / "speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "aot_compile.py").write_text(ESTIMATE)
    monkeypatch.setattr(module, "LAUNCH", tmp_path)
    return module


def write_metrics(folder: Path, speeds_and_compilations: list[tuple[float, int]]) -> Path:
    folder.mkdir()
    lines = [
        json.dumps({"step": step, "tokens_per_second": speed, "model_tflops": speed, "compilations": count})
        for step, (speed, count) in enumerate(speeds_and_compilations, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_steps_that_compile_do_not_count(speed, tmp_path, capfd):
    run = write_metrics(tmp_path / "run", [(1, 1), (800, 1), (900, 1), (2, 2), (1600, 2), (850, 2)])
    arguments = ["--stage", "1", "--output_dir", str(run)]
    assert speed.main(["v5e:2x4", *arguments]) == 1  # that of the compiler
    assert capfd.readouterr().out == (
        # 875 of 8 times 197 TFLOP/s
        "measured on v5e:2x4: MFU 55.5%; 875 tokens/s without padding, 109 a chip (medians of 4 steps)\n"
        f"estimate of --topology v5e:2x4 {' '.join(arguments)}\n"
    )


@pytest.mark.parametrize(
    "records", [[], [(1.0, 1)], [(1.0, 1), (2.0, 2)]], ids=["nothing", "one step", "all compiled"]
)
def test_a_run_too_short_to_measure_is_refused(records, speed, tmp_path, capfd):
    run = write_metrics(tmp_path / "run", records)
    assert speed.main(["v5e:2x4", "--output_dir", str(run)]) == 2
    assert "no step ran without compiling" in capfd.readouterr().err


def test_a_run_that_is_not_there_is_refused(speed, tmp_path, capfd):
    assert speed.main(["v5e:2x4", "--output_dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("how", [["--stage", "both"], ["--stage=both"]])
def test_both_stages_are_refused_before_anything_is_done(how, cloud):
    done = cloud.try_to("benchmark", "--poll", "1", *Steps(cloud.shared / "x").arguments("5", *how))
    assert done.returncode == 2
    assert "--stage both: benchmark measures one run; give --stage 1 or --stage 2" in done.stderr
    assert cloud.calls() == []


def test_figures_of_an_earlier_run_are_called_so(cloud):
    steps = Steps(cloud.shared / "x")
    arguments = ["benchmark", "--poll", "1", "--", "--output_dir", str(steps.folder), "--stage", "1"]
    first = cloud.do(*arguments)
    assert first.endswith("speed on v5e:4x4\n")
    assert steps.done() == [30, 30]
    assert "no step was made now" not in first
    again = cloud.do(*arguments)
    assert "worker 0: no step was made now: what follows was measured when this output_dir" in again
    assert again.endswith("speed on v5e:4x4\n")
