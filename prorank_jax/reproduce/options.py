"""What an ablation is about: the dataset, the model, the seeds and the recipes of both stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prorank_jax.config import RunConfig
from prorank_jax.config_checks import require, require_at_least
from prorank_jax.demo_collection import demo_collection
from prorank_jax.evaluation.names import PARTS, DatasetName, parse_dataset
from prorank_jax.evaluation.options import DEFAULT_BATCH_SIZE
from prorank_jax.local_sources import local_beir_files
from prorank_jax.reproduce.rows import ROWS, STAGE1
from prorank_jax.source_names import CATALOGUE_PREFIX, DEMO, is_url

DEFAULT_TOP_K = 20


@dataclass(frozen=True)
class ReproduceOptions:
    """An ablation that can be begun; checked when built, the dataset's files by `open_splits`.

    Attributes:
        dataset: `demo`, a BEIR folder or its URL, or an id of ir_datasets without its split, such as
            `beir/nfcorpus`.
        train_split, test_split: what is trained on; what is probed and evaluated on.
        model: what everything starts from.
        seeds: of the training runs; each gives one run of each stage.
        output_dir: a folder on this machine.
        stage1, stage2: recipes; their model, data source, splits, seed and `output_dir` are not read. What a
            file says of another source is none of theirs; `parse_options` leaves it out.
        queries: evaluate on a random sample of so many queries; None: on all.
        top_k: documents of BM25 that are reranked for each query.
        max_length: of an evaluated prompt in tokens, for every row; None: stage 2's `data.max_length`.
        batch_size: prompts scored at once in an evaluation.
        only: the rows that are worked on.
        export: whether the best model of both stages is exported at the end.
        command: the command line, for the table.
    """

    dataset: str
    model: str
    seeds: tuple[int, ...]
    output_dir: Path
    stage1: RunConfig
    stage2: RunConfig
    train_split: str = "train"
    test_split: str = "dev"
    queries: int | None = None
    top_k: int = DEFAULT_TOP_K
    max_length: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    only: tuple[str, ...] = ROWS
    export: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        require(bool(self.dataset.strip()), "dataset", self.dataset, "name a BEIR folder, demo, or beir/NAME")
        require(bool(self.model.strip()), "model", self.model, "name a model")
        require(bool(self.seeds), "seeds", self.seeds, "give at least one")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", list(self.seeds), "name each seed once")
        require(all(0 <= s < 2**32 for s in self.seeds), "seeds", list(self.seeds), "from 0 to 4294967295")
        unknown = [row for row in self.only if row not in ROWS]
        require(not unknown, "only", unknown, f"choose from {', '.join(ROWS)}")
        require(bool(self.only), "only", list(self.only), f"choose from {', '.join(ROWS)}")
        require(
            self.train_split != self.test_split,
            "test_split",
            self.test_split,
            "is what is trained on; name another",
        )
        for name in ("queries", "top_k", "max_length", "batch_size"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        for name in ("system", "instruction", "excerpts"):
            here, there = getattr(self.stage1.data, name), getattr(self.stage2.data, name)
            remedy = f"stage 2's is {there!r}; give both stages the same prompt, or no row can be compared"
            require(here == there, f"stage1.data.{name}", here, remedy)

    @property
    def evaluated_length(self) -> int:
        """Longest prompt of every evaluation, in tokens."""
        return self.max_length or self.stage2.data.max_length

    def split(self, name: str) -> DatasetName:
        """A split of the dataset by name.

        Raises:
            ValueError: there is no such dataset; ids of ir_datasets name their split.
        """
        if self.dataset == DEMO or is_url(self.dataset) or Path(self.dataset).expanduser().is_dir():
            return parse_dataset(f"{self.dataset}:{name}")
        return parse_dataset(f"{self.dataset}/{name}")

    def data_fields(self) -> dict[str, Any]:
        """The fields of `data` that the dataset decides; ids of ir_datasets name their own splits."""
        train, test = self.split(self.train_split), self.split(self.test_split)
        splits = {"split": train.split, "probe_split": test.split}
        return {
            "source": train.source,
            "probe_source": test.source if test.source.startswith(CATALOGUE_PREFIX) else "",
            **{name: split for name, split in splits.items() if split},
        }

    @property
    def dataset_name(self) -> str:
        """The dataset and its test split, as `launch/evaluate.py` takes them."""
        return self.split(self.test_split).name

    def training_config(self, row: str, seed: int, output_dir: Path, source: str) -> RunConfig:
        """The run that makes a row's model: a stage's recipe on this dataset.

        Args:
            row: `STAGE1`, `STAGE2` or `BOTH`; the last two are runs of stage 2.
            output_dir: of the run.
            source: the model that it starts from.
        """
        recipe = self.stage1 if row == STAGE1 else self.stage2
        return self._on_dataset(recipe, seed, output_dir, source)

    def probe_config(self, output_dir: Path, source: str) -> RunConfig:
        """The probe of a model: the prompts that stage 1 holds out in the run of its recipe's own seed."""
        return self._on_dataset(self.stage1, self.stage1.train.seed, output_dir, source)

    def _on_dataset(self, recipe: RunConfig, seed: int, output_dir: Path, source: str) -> RunConfig:
        return dataclasses.replace(
            recipe,
            output_dir=str(output_dir),
            model=dataclasses.replace(recipe.model, source=source),
            data=dataclasses.replace(recipe.data, **self.data_fields()),
            train=dataclasses.replace(recipe.train, seed=seed),
        )


def check_splits(options: ReproduceOptions) -> None:
    """Refuses a dataset without one of the splits; reads no texts, and needs a network only for a URL.

    Raises:
        ValueError: names the option, its value and the splits there are.
    """
    for field in ("train_split", "test_split"):
        name = getattr(options, field)
        try:
            split = options.split(name)
            if split.source == DEMO:
                demo_collection(name, PARTS.split)
            elif not split.source.startswith(CATALOGUE_PREFIX):
                local_beir_files(split.source, name, PARTS)
        except ValueError as error:
            raise ValueError(f"dataset={options.dataset!r}, {field}={name!r}: {error}") from error
