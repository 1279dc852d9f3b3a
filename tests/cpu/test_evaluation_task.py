"""The datasets of an evaluation: what their scores are known by."""

from __future__ import annotations

from prorank_jax.evaluation.names import parse_dataset
from prorank_jax.evaluation.options import EvaluationOptions
from prorank_jax.evaluation_task import prepare_task
from tests.cpu.data_fixtures import write_beir_folder


def test_scores_are_known_by_the_files_that_the_texts_were_read_from(tmp_path):
    """Many models may be evaluated on one reading, hours after it; the files may have changed by then."""
    folder = write_beir_folder(tmp_path / "one", queries=4, split="test")
    dataset, options = parse_dataset(str(folder)), EvaluationOptions("model", (str(folder),))

    def fingerprint() -> dict:
        return prepare_task(dataset, 0, options).header({})["dataset_fingerprint"]

    task, before = prepare_task(dataset, 0, options), fingerprint()
    corpus = folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("text number 1", "text number one"))
    assert task.header({})["dataset_fingerprint"] == before
    assert fingerprint() != before
