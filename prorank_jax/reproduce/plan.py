"""The work of an ablation: its entries (a row with a seed), and what each still needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prorank_jax.config import RunConfig
from prorank_jax.evaluation.names import slug
from prorank_jax.evaluation.output import METRICS_FILE, QUERIES_FILE
from prorank_jax.model_identity import newest_step
from prorank_jax.model_probe import PROBE_FILE
from prorank_jax.reproduce.options import ReproduceOptions
from prorank_jax.reproduce.rows import BASE, BOTH, STAGE1, TITLES, TRAINED
from prorank_jax.run_folder import REPORT_FILE

TRAIN, PROBE, EVALUATE = "train", "probe", "evaluate"
PROMPTS_FOLDER, RUN_FOLDER, START_FOLDER = "prompts", "run", "started_from"


@dataclass(frozen=True)
class Entry:
    """A model of the ablation: a row, and the seed it was trained with (None for the base model)."""

    row: str
    seed: int | None

    @property
    def title(self) -> str:
        """What the console calls it."""
        return TITLES[self.row] if self.seed is None else f"{TITLES[self.row]}, seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """One process of the work.

    Attributes:
        entry: whose model it is about.
        kind: `TRAIN`, `PROBE` or `EVALUATE`.
        launcher: a file of launch/.
        arguments: of its command line.
        result: the file that is there once it is done, and not before.
        config: a run's config, written to `config_file` for the launcher; None: it needs none.
        needed_by: of a `TRAIN` job, those of the plan that read its model.
        measured_by: of a `TRAIN` job, those that measure its model, whoever needs that.
    """

    entry: Entry
    kind: str
    launcher: str
    arguments: tuple[str, ...]
    result: Path
    config: RunConfig | None = None
    config_file: Path | None = None
    needed_by: tuple[Job, ...] = ()
    measured_by: tuple[Job, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether an earlier call finished it, and its model is there for those who still need it."""
        if not self.result.is_file() or self.kind != TRAIN or self.config is None:
            return self.result.is_file()
        if all(job.is_done for job in self.needed_by):  # nobody reads its checkpoints any more
            return True
        return newest_step(Path(self.config.output_dir)) == self.config.train.steps


class Plan:
    """Which folders and processes the options lead to; reads nothing but which results are there."""

    def __init__(self, options: ReproduceOptions) -> None:
        self._options = options

    def entries(self, rows: Sequence[str]) -> list[Entry]:
        """The models of these rows: the base model first, then seed by seed."""
        base = [Entry(BASE, None)] if BASE in rows else []
        return base + [Entry(row, s) for s in self._options.seeds for row in TRAINED if row in rows]

    def jobs(self, entry: Entry) -> list[Job]:
        """All processes that an entry needs, in order, done or not."""
        measured = (self._probe(entry), self._evaluate(entry))
        if entry.row == BASE:
            return list(measured)
        trained = self._train(entry, measured)
        if entry.row != BOTH:
            return [trained, *measured]
        first = self._train(Entry(STAGE1, entry.seed), (trained,))
        # Trained again, it is also measured again.
        again = first.measured_by if STAGE1 in self._options.only else ()
        return [first, *again, trained, *measured]

    def folder(self, entry: Entry) -> Path:
        """Where everything about an entry lies."""
        folder = self._options.output_dir / entry.row
        return folder if entry.seed is None else folder / f"seed{entry.seed}"

    def run_folder(self, entry: Entry) -> Path:
        """Where an entry's model is trained."""
        return self.folder(entry) / RUN_FOLDER

    def model(self, entry: Entry) -> str:
        """An entry's model, as the launchers take it."""
        return self._options.model if entry.row == BASE else str(self.run_folder(entry))

    def run_config(self, entry: Entry) -> RunConfig:
        """The config of a trained entry's run."""
        if entry.seed is None:
            raise ValueError(f"{entry.title}: is not trained")
        first = Entry(STAGE1, entry.seed) if entry.row == BOTH else Entry(BASE, None)
        run, source = self.run_folder(entry), self.model(first)
        return self._options.training_config(entry.row, entry.seed, run, source)

    def first_of(self, entry: Entry) -> Entry:
        """Stage 1 of an entry of both stages."""
        return Entry(STAGE1, entry.seed)

    def start_folder(self, entry: Entry) -> Path:
        """Where an entry of both stages keeps the config of the stage 1 that it began from."""
        return self.folder(entry) / START_FOLDER

    def probe_file(self, entry: Entry) -> Path:
        """The result of an entry's probe."""
        return self.folder(entry) / PROBE / PROBE_FILE

    def queries_file(self, entry: Entry) -> Path:
        """The metrics of each query of an entry's evaluation."""
        return self.metrics_file(entry).parent / slug(self._options.dataset_name) / QUERIES_FILE

    def metrics_file(self, entry: Entry) -> Path:
        """The summary of an entry's evaluation; written last."""
        return self.folder(entry) / "evaluation" / METRICS_FILE

    def made_queries_file(self, entry: Entry) -> Path:
        """The ids of the documents that the made queries of an entry's run ask for."""
        return self.folder(entry) / "made_queries.json"

    def drawn_queries_file(self, entry: Entry) -> Path:
        """The ids of the judged queries that an entry's run drew."""
        return self.folder(entry) / "drawn_queries.json"

    def _train(self, entry: Entry, needed_by: tuple[Job, ...]) -> Job:
        file = self.folder(entry) / "run.yaml"
        arguments = ("--config", str(file))
        done = self.run_folder(entry) / REPORT_FILE
        config, measured = self.run_config(entry), (self._probe(entry), self._evaluate(entry))
        return Job(entry, TRAIN, "tpu_train.py", arguments, done, config, file, needed_by, measured)

    def _probe(self, entry: Entry) -> Job:
        result = self.probe_file(entry)
        config = self._options.probe_config(result.parent, self.model(entry))
        file = self.folder(entry) / "probe.yaml"
        prompts = str(self._options.output_dir / PROMPTS_FOLDER)
        arguments = ("--config", str(file), "--output_dir", str(result.parent), "--data_folder", prompts)
        return Job(entry, PROBE, "probe.py", arguments, result, config, file)

    def _evaluate(self, entry: Entry) -> Job:
        options, result = self._options, self.metrics_file(entry)
        data, computed = options.stage2.data, options.stage2.model
        pairs = {
            "model": self.model(entry),
            "dataset": options.dataset_name,
            "output_dir": result.parent,
            "top_k": options.top_k,
            "queries": options.queries,
            "max_length": options.evaluated_length,
            "batch_size": options.batch_size,
            "system": data.system,
            "instruction": data.instruction,
            "excerpts": data.excerpts,
            "compute_dtype": computed.compute_dtype,
            "attention": computed.attention,
        }
        given = [f"--{name}={value}" for name, value in pairs.items() if value is not None]
        return Job(entry, EVALUATE, "evaluate.py", tuple(given), result)
