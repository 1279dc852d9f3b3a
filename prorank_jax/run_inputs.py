"""What decides a run beside its config: its examples, its reference model, and its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from prorank_jax.config import RunConfig
from prorank_jax.examples import ExampleSet
from prorank_jax.model_identity import weights_fingerprint
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.weights import read_model_config
from prorank_jax.run_folder import MODEL_CONFIG_FILE

TRAINED_ON, HELD_OUT, REFERENCE = "training examples", "held-out examples", "reference model's files"


def fingerprint_inputs(
    config: RunConfig, examples: ExampleSet, held_out: ExampleSet, uses_reference: bool
) -> dict[str, str]:
    """A fingerprint for each thing that a run reads, by its name in messages; JSON-able.

    Args:
        uses_reference: the pretrained parameters are read again when the run goes on.
    """
    found = {TRAINED_ON: examples.digest, HELD_OUT: held_out.digest}
    if uses_reference:
        found[REFERENCE] = weights_fingerprint(config.model.source)
    return found


def check_same_inputs(config: RunConfig, saved: Mapping[str, str], now: Mapping[str, str], step: int) -> None:
    """Refuses to go on after a checkpoint with other inputs than those it was trained on.

    Raises:
        ValueError: names the field that they come from, and both fingerprints.
    """
    fields = {
        TRAINED_ON: f"data.source={config.data.source!r}",
        HELD_OUT: f"data.probe_source={(config.data.probe_source or config.data.source)!r}",
        REFERENCE: f"model.source={config.model.source!r}",
    }
    for name, fingerprint in saved.items():
        if now.get(name) != fingerprint:
            here = now.get(name) or "none"
            raise ValueError(
                f"{fields[name]}: the {name} are not those of the checkpoint after step {step} "
                f"({fingerprint[:12]} there, {here[:12]} here), so the run cannot go on as it began; bring "
                "back the files, the model's tokenizer and chat template, or the bm25s, PyStemmer and "
                "prorank-jax that made them, or name a new output_dir"
            )


def check_same_architecture(config: RunConfig, folder: Path, now: ModelConfig) -> None:
    """Refuses to go on with a model that is computed otherwise than the one in the run's folder.

    The parameters of a checkpoint may fit all the same: a base of the rotary embedding has no shape.

    Raises:
        ValueError: names what differs.
    """
    file = folder / MODEL_CONFIG_FILE
    if not file.is_file():  # a run stopped before it was written
        return
    saved = asdict(read_model_config(file))
    differing = [
        f"{name} is {saved[name]!r} there, {value!r} here"
        for name, value in asdict(now).items()
        if saved[name] != value
    ]
    if differing:
        raise ValueError(
            f"model.source={config.model.source!r}: is of another architecture than the run began with "
            f"({', '.join(differing)}); bring back the model's files, or name a new output_dir"
        )
