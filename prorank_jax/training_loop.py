"""The training loop of a stage: its steps, with the probes, checkpoints and notices that fall due."""

from __future__ import annotations

import dataclasses
import json
import logging
import time

import jax
import jax.numpy as jnp
from rich.console import Console

from prorank_jax.bad_steps import BadSteps, pairs_of
from prorank_jax.checkpoint import Checkpoints
from prorank_jax.config_files import config_to_dict
from prorank_jax.launching import Interrupted
from prorank_jax.memory_remedies import smaller_step
from prorank_jax.messages import say
from prorank_jax.metrics_log import (
    METRICS_FILE,
    CompilationCounter,
    MetricsLog,
    TrainingProgress,
    keep_lines_up_to,
)
from prorank_jax.preemption import StopVote
from prorank_jax.probe import run_probe, to_record
from prorank_jax.processes import gather_texts, leads, succeed_together
from prorank_jax.run_folder import append_lines
from prorank_jax.run_inputs import check_same_inputs
from prorank_jax.run_place import RunPlace
from prorank_jax.run_report import PROBES_FILE, lacks_probe, signs_so_far, withdraw_report
from prorank_jax.sampled_completions import sampled_table
from prorank_jax.setup import Run
from prorank_jax.sharding import put_batch
from prorank_jax.stages import Work
from prorank_jax.step_room import StepRoom
from prorank_jax.step_trace import TRACE_FOLDER, StepTrace
from prorank_jax.train_state import all_params
from prorank_jax.types import Batch, ListBatch, Params, TrainState

_log = logging.getLogger(__name__)
INPUTS = "inputs"  # beside the data iterator's own state


@dataclasses.dataclass
class _Pending:
    """A step that was dispatched and whose metrics are not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    work: Work
    batch: Batch | ListBatch


def _copied(params: Params) -> Params:
    """The same values on the same devices, in buffers of their own."""
    copy = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, params),
    )
    copied: Params = copy(params)
    return copied


class TrainingLoop:
    """A run's steps; its fields are what one step hands to the next."""

    def __init__(
        self,
        run: Run,
        place: RunPlace,
        checkpoints: Checkpoints,
        compilations: CompilationCounter,
        stop: StopVote,
        console: Console,
    ) -> None:
        self._run = run
        self._place = place
        self._checkpoints = checkpoints
        self._compilations = compilations
        self._stop = stop
        self._console = console
        self._batches = run.stage.batches()
        self._leads = leads()
        self._pending: _Pending | None = None
        self._reference: Params | None = None
        is_float32 = run.config.model.compute_dtype == "float32"
        self._room = StepRoom(run.stage.temporary_bytes, smaller_step(run.config, run.mesh))
        self._bad_steps = BadSteps(run.config.train.max_skipped, computes_in_float32=is_float32)
        self._state, self._done = self._resume_or_start()
        with succeed_together():
            if self._leads:
                self._cut_lines()
        self._told = set(signs_so_far(run, place.folder)) if self._done and self._leads else set[str]()
        self._clock = time.perf_counter()

    def _resume_or_start(self) -> tuple[TrainState, int]:
        run, found = self._run, self._checkpoints.restore_newest(self._run.abstract_state)
        if run.stage.uses_reference:
            self._reference = run.load_initial_params()
        if found is None:
            # The state is donated step by step; the reference must not share its buffers.
            params = _copied(self._reference) if self._reference else run.load_initial_params()
            return run.init_state(params), 0
        restored, step = found
        position = dict(restored.iterator)
        with succeed_together():
            check_same_inputs(run.config, position.pop(INPUTS, {}), run.inputs, step)
        self._batches.set_state(position)
        say(self._console, f"resuming {self._place.name} after step {step}")
        return restored.state, step

    def _cut_lines(self) -> None:
        """Takes away what was written after the checkpoint, and lines that a kill or a full disk tore."""
        keep_lines_up_to(self._place.folder / METRICS_FILE, self._done)
        # A run killed before its first checkpoint repeats the probe before the first step.
        keep_lines_up_to(self._place.folder / PROBES_FILE, self._done or -1)

    def run_to_end(self) -> int:
        """Trains the steps that are left, with what falls due between them; returns how many they were."""
        config, steps = self._run.config, self._run.config.train.steps
        key = jax.random.key(config.train.seed)
        with succeed_together():
            if self._leads and self._done < steps:
                withdraw_report(self._place)
        if self._done == 0 or self._lacks_last_probe():
            self._probe(self._done)
        log = MetricsLog(self._place.folder, self._done) if self._leads else None
        try:
            shown = self._run.stage.shown
            recorded = config.train.profile_steps if self._leads else 0
            with (
                TrainingProgress(self._console, steps, self._done, shown) as progress,
                StepTrace(self._place.folder / TRACE_FOLDER, self._done + 1, recorded) as trace,
            ):
                for step in range(self._done + 1, steps + 1):
                    trace.before(step)
                    self._run_step(step, jax.random.fold_in(key, step), log, progress)
                    trace.after(step, self._state)
        finally:
            if log is not None:
                log.close()
        return steps - self._done

    def _lacks_last_probe(self) -> bool:
        """Whether a finished run has lost the probe of the very weights that are here."""
        if self._done < self._run.config.train.steps:
            return False
        told = str(self._leads and lacks_probe(self._place.folder, self._done))
        return gather_texts(told)[0] == str(True)

    def _run_step(
        self, step: int, key: jax.Array, log: MetricsLog | None, progress: TrainingProgress
    ) -> None:
        config = self._run.config
        batch = next(self._batches)
        on_mesh = put_batch(batch, self._run.mesh)
        self._room.look_at(self._state, self._reference, on_mesh, key)
        self._state, metrics, completions = self._run.stage.step(self._state, self._reference, on_mesh, key)
        stop = self._stop.says_stop()
        self._settle(log, progress)  # the step before: its metrics are read while this one runs
        self._pending = _Pending(step, metrics, self._run.stage.work(batch), batch)
        last = step == config.train.steps
        if self._leads and completions is not None and self._due(config.train.sample_every, step):
            self._console.print(sampled_table(self._run, step, batch, completions))
        if last or self._due(config.probe.every, step):
            self._settle(log, progress)
            self._probe(step)
        if last or self._due(config.checkpoint.every, step) or stop:
            self._settle(log, progress)
            self._save(step)
        if stop and not last:
            self._checkpoints.wait()
            raise Interrupted(f"stopped after step {step}; the same command goes on from there")

    @staticmethod
    def _due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _settle(self, log: MetricsLog | None, progress: TrainingProgress) -> None:
        """Waits for the dispatched step's metrics and logs them."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        seconds = time.perf_counter() - self._clock
        self._clock = time.perf_counter()
        metrics |= pending.work.speeds(seconds)
        metrics["compilations"] = self._compilations.count
        if log is not None:
            log.write(pending.step, metrics)
        progress.update(pending.step, metrics)
        examples = self._run.examples
        self._bad_steps.saw(
            pending.step, metrics["skipped"], lambda: pairs_of(examples, pending.batch.examples)
        )

    def _probe(self, step: int) -> None:
        run = self._run
        result = run_probe(
            run.probe_step,
            all_params(self._state),
            run.held_out,
            run.renderer.answer_tokens,
            run.mesh,
            step,
            show_progress=self._leads and self._console.is_terminal,
        )
        self._console.print(f"held out after {step} steps: {result.told}", highlight=False)
        if self._leads:
            append_lines(self._place.folder / PROBES_FILE, json.dumps(to_record(result)) + "\n")
            self._tell_signs()
        self._clock = time.perf_counter()

    def _tell_signs(self) -> None:
        """Warns of each kind of trouble once."""
        for kind, sentence in signs_so_far(self._run, self._place.folder).items():
            if kind not in self._told:
                self._told.add(kind)
                _log.warning(sentence)

    def _save(self, step: int) -> None:
        self._place.send()
        self._checkpoints.save(
            self._state,
            step,
            self._batches.get_state() | {INPUTS: self._run.inputs},
            config_to_dict(self._run.config),
            self._run.model_config.to_hf(),
        )
        self._clock = time.perf_counter()
