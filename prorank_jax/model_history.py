"""What is known about a model: the runs that made it, their held-out probes, and its evaluations."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prorank_jax.card_history import NO_CARD, CardHistory, read_card_history
from prorank_jax.config import RunConfig
from prorank_jax.model_identity import has_fingerprint, model_identity, newest_step
from prorank_jax.models.sources import SMOLLM2_SOURCE
from prorank_jax.pretrained import Pretrained, RunBehind, runs_behind, seen_by_run
from prorank_jax.run_folder import REPORT_FILE
from prorank_jax.run_names import split_step

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RUNS = "runs"
_CHOICES = ("system", "instruction", "excerpts", "compute_dtype")
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """One training run.

    Attributes:
        before, after: the held-out probes before it, and of its weights; empty: none is known.
        step: of the weights; None: its checkpoints are gone, so it is taken to have ended.
    """

    config: RunConfig
    before: Mapping[str, float]
    after: Mapping[str, float]
    step: int | None = None


@dataclass(frozen=True)
class RunHistory:
    """The runs of a model.

    Attributes:
        runs: whose folders are known, the first one first.
        base_model: hub id they all started from; empty: not known.
        earlier: the runs before those, as the card of the export that they started from has them.
    """

    runs: tuple[RunRecord, ...]
    base_model: str
    earlier: CardHistory = NO_CARD

    @property
    def stages(self) -> tuple[str, ...]:
        """Of all runs, the first one first."""
        return (*self.earlier.stages, *(str(record.config.stage) for record in self.runs))


@dataclass(frozen=True)
class DatasetResult:
    """One collection of an evaluation; metrics as ranx names them, from 0 to 1.

    Attributes:
        queries: measured on so many; None where the file does not say.
        sampled_from: a random sample of so many; None: it is all of them.
        trained_on: the model was trained on these queries, as far as is known.
        first_stage_name: `bm25` or a run file; empty where the file does not say.
    """

    name: str
    first_stage: Mapping[str, float]
    reranked: Mapping[str, float]
    p_value: float | None
    queries: int | None = None
    sampled_from: int | None = None
    trained_on: bool = False
    first_stage_name: str = ""


@dataclass(frozen=True)
class Evaluation:
    """A `metrics.json` of launch/evaluate.py.

    Attributes:
        model: as it was named; `step` is that of a run's checkpoint, None: no run, or the file does not say.
        fingerprint: of the model's files, as `model_identity` gives it; empty where the file does not say.
        max_length: of its prompts in tokens; None where the file does not say.
        chosen: options that were given instead of the model's own or the default ones, by name; an empty
            text too, which asks for the chat format's own system sentence, or for no instruction.
    """

    model: str
    top_k: int | None
    datasets: tuple[DatasetResult, ...]
    step: int | None = None
    fingerprint: str = ""
    max_length: int | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)


def read_run_history(model: Pretrained) -> RunHistory:
    """Follows `model.source` from run to run, as far as the folders are still there, to an export's card."""
    runs, origin = runs_behind(model.path, split_step(model.source)[1])
    records = tuple(_read_record(run) for run in reversed(runs))
    earlier = read_card_history(origin)
    if earlier.stages:
        return RunHistory(records, earlier.base_model, earlier)
    if not runs:
        return RunHistory(records, _hub_id(model.source))
    folder, first, _ = runs[-1]
    is_folder = seen_by_run(folder, first, first.model.source).exists()
    return RunHistory(records, "" if is_folder else _hub_id(first.model.source))


def read_evaluation(file: Path) -> Evaluation:
    """Reads `{"datasets": {name: {"first_stage": {...}, "reranked": {...}, "p_value": ...}}, "model": ...}`.

    Raises:
        ValueError: no such file, or one that is no metrics.json.
    """
    if not file.is_file():
        raise ValueError(f"--metrics={str(file)!r}: no such file; name a metrics.json of launch/evaluate.py")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        datasets = tuple(_read_dataset(name, result) for name, result in content["datasets"].items())
        model, fingerprint = content.get("model", ""), content.get("model_fingerprint", "")
        top_k, step, length = (
            _count(name, content.get(name)) for name in ("top_k", "model_step", "max_length")
        )
        chosen = {name: str(content[name]) for name in _CHOICES if content.get(name) is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: is no metrics.json of launch/evaluate.py ({type(error).__name__}: {error}); "
            "name another"
        ) from error
    if not datasets or not isinstance(model, str) or not isinstance(fingerprint, str):
        raise ValueError(f"{file}: needs datasets, a model's name and its fingerprint; name another file")
    return Evaluation(model, top_k, datasets, step, fingerprint, length, chosen)


def evaluations_of(source: str, evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """Those that measured this very model; a warning names each that is left out.

    One that does not say which weights it measured is kept.

    Raises:
        ValueError: there is no such model.
    """
    if not any(evaluation.fingerprint for evaluation in evaluations):
        return tuple(evaluations)
    step = model_identity(source)["model_step"]
    kept = []
    for evaluation in evaluations:
        if not evaluation.fingerprint or has_fingerprint(source, evaluation.fingerprint):
            kept.append(evaluation)
        else:
            measured, exported = _named(evaluation.model, evaluation.step), _named(source, step)
            _log.warning("an evaluation of %s is left out of the card: this is %s", measured, exported)
    return tuple(kept)


def _named(model: str, step: int | None) -> str:
    return model if step is None else f"{model} at step {step}"


def _read_dataset(name: str, result: Mapping[str, Any]) -> DatasetResult:
    p_value = result.get("p_value")
    return DatasetResult(
        name,
        _numbers(result["first_stage"]),
        _numbers(result["reranked"]),
        None if p_value is None else _number("p_value", p_value),
        _count("queries", result.get("queries")),
        _count("sampled_from", result.get("sampled_from")),
        result.get("trained_on") is True,
        str(result.get("first_stage_name", "")),
    )


def _count(name: str, value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{name}={value!r} is no whole number")
    return value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is no finite number")
    return float(value)


def _probe(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a probe; null stands where a score was not finite, and is left out."""
    return _numbers({name: value for name, value in values.items() if value is not None})


def _before(report: Mapping[str, Any]) -> dict[str, float]:
    """The probe before the first step; earlier versions let a later one stand for it where it was lost."""
    found = {} if report["before"] is None else _probe(report["before"])
    return {} if found.get("step", 0) else found


def _read_record(run: RunBehind) -> RunRecord:
    folder, config, step = run
    if step is None:
        step = newest_step(folder)
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        record = RunRecord(config, _before(report), _probe(report["after"]), step)
    except FileNotFoundError:  # the run has not ended yet
        return RunRecord(config, {}, {}, step)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / REPORT_FILE}: cannot be read ({type(error).__name__}: {error}); "
            "repeat the run's command, which writes it again"
        ) from error
    probed = int(record.after.get("step", config.train.steps))
    if step is None or step == probed:
        return record
    _log.warning(
        "%s: its probe after step %d is left out of the card: the weights are those of step %d",
        folder / REPORT_FILE,
        probed,
        step,
    )
    return replace(record, after={})


def _hub_id(source: str) -> str:
    if source == SMOLLM2_SOURCE:
        return SMOLLM2_HUB_ID
    first_folder = Path(source).expanduser().parts[:1]
    # The run it names may be gone: a folder of runs beside us is no organisation of the hub.
    among_runs = bool(first_folder) and (first_folder[0] == _RUNS or Path(first_folder[0]).is_dir())
    is_local = among_runs or Path(source).expanduser().exists() or source.endswith(".gguf")
    return source if not is_local and _HUB_ID.fullmatch(source) else ""
