"""What decides a run beside its config: its examples and its reference model, as fingerprints."""

from __future__ import annotations

from collections.abc import Mapping

from prorank_jax.config import RunConfig
from prorank_jax.examples import ExampleSet
from prorank_jax.model_identity import model_identity

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
        found[REFERENCE] = str(model_identity(config.model.source)["model_fingerprint"])
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
