"""A trace of a few steps of a run: which of them are recorded, and that a run leaves one behind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from prorank_jax.config import TrainOptions
from prorank_jax.step_trace import STEPS_BEFORE, StepTrace


class Recorder:
    """Stands in the profiler's place and notes after which step it was told what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step = 0
        self.calls: list[tuple[str, int]] = []
        monkeypatch.setattr(jax.profiler, "start_trace", lambda _: self.calls.append(("start", self.step)))
        monkeypatch.setattr(jax.profiler, "stop_trace", lambda: self.calls.append(("stop", self.step)))

    def run(self, trace: StepTrace, first: int, last: int) -> list[tuple[str, int]]:
        with trace:
            for self.step in range(first, last + 1):
                trace.before(self.step)
                trace.after(self.step, jnp.zeros(()))
        return self.calls


def test_steps_after_the_first_two_are_recorded(monkeypatch, tmp_path):
    first = 11  # of a resumed run
    calls = Recorder(monkeypatch).run(StepTrace(tmp_path, first, 3), first, 20)
    assert calls == [("start", first + STEPS_BEFORE), ("stop", first + STEPS_BEFORE + 2)]


def test_none_are_recorded_unless_asked_for(monkeypatch, tmp_path):
    assert Recorder(monkeypatch).run(StepTrace(tmp_path, 1, 0), 1, 9) == []


def test_a_run_that_ends_first_keeps_what_was_recorded(monkeypatch, tmp_path):
    assert Recorder(monkeypatch).run(StepTrace(tmp_path, 1, 50), 1, 4) == [("start", 3), ("stop", 4)]
    assert Recorder(monkeypatch).run(StepTrace(tmp_path, 1, 50), 1, 2) == []


def test_a_trace_lies_in_its_folder(tmp_path):
    with StepTrace(tmp_path / "profile", 1, 1) as trace:
        for step in range(1, 5):
            trace.before(step)
            trace.after(step, jax.jit(jnp.sum)(jnp.ones(step)))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"train\.profile_steps=-1"):
        TrainOptions(profile_steps=-1)
