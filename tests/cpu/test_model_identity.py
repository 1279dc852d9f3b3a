"""What tells models apart: their files, or the newest checkpoint of a run."""

from __future__ import annotations

import dataclasses

import pytest

from prorank_jax.config import MeshOptions
from prorank_jax.config_files import load_config
from prorank_jax.model_identity import fingerprint_files, model_identity, weights_fingerprint
from prorank_jax.run_folder import CHECKPOINTS_FOLDER, TOKENIZER_FOLDER, write_config
from prorank_jax.storage_faults import whole_file


def test_identity_of_a_run_is_its_newest_checkpoint(tmp_path):
    for name in ("config.yaml", "model_config.json", "metrics.jsonl"):
        (tmp_path / name).write_text(name)
    with pytest.raises(ValueError, match="a run without a checkpoint"):
        model_identity(str(tmp_path))
    identities = []
    for step in ("28", "56", "99.orbax-checkpoint-tmp"):
        (tmp_path / CHECKPOINTS_FOLDER / step).mkdir(parents=True)
        (tmp_path / CHECKPOINTS_FOLDER / step / "data").write_text("same bytes")
        identities.append(model_identity(str(tmp_path)))
    assert [identity["model_step"] for identity in identities] == [28, 56, 56]
    assert identities[0]["model_fingerprint"] != identities[1]["model_fingerprint"]
    (tmp_path / "metrics.jsonl").write_text("the run goes on logging")
    assert model_identity(str(tmp_path)) == identities[1] == identities[2]
    (tmp_path / CHECKPOINTS_FOLDER / "56" / "data").write_text("other bytes")
    assert model_identity(str(tmp_path)) != identities[1]


def test_weights_of_a_run_stay_the_same_where_it_goes_on_elsewhere(tmp_path):
    """It writes its config anew then; a run that starts from it must still know it."""
    run = load_config(None, {"output_dir": "runs/a", "lora.rank": 4})

    def fingerprint(**changes) -> str:
        write_config(tmp_path, dataclasses.replace(run, **changes))
        return weights_fingerprint(str(tmp_path))

    (tmp_path / "model_config.json").write_text("{}")
    (tmp_path / CHECKPOINTS_FOLDER / "28").mkdir(parents=True)
    (tmp_path / CHECKPOINTS_FOLDER / "28" / "data").write_text("bytes")
    first = fingerprint()
    assert fingerprint(output_dir="runs/b", mesh=MeshOptions(data=1, fsdp=8)) == first
    assert fingerprint(checkpoint=dataclasses.replace(run.checkpoint, keep=5)) == first
    assert fingerprint(lora=dataclasses.replace(run.lora, alpha=run.lora.alpha * 2)) != first
    (tmp_path / CHECKPOINTS_FOLDER / "28" / "data").write_text("other bytes")
    assert fingerprint() != first


def test_what_is_being_fetched_into_the_folder_is_no_part_of_a_run(tmp_path):
    """A killed process leaves it there for a day; every checkpoint keeps the fingerprint."""
    write_config(tmp_path, load_config(None, {}))
    (tmp_path / "model_config.json").write_text("{}")
    for name in (f"{CHECKPOINTS_FOLDER}/28/data", f"{TOKENIZER_FOLDER}/tokenizer.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("content")
    before = (model_identity(str(tmp_path)), weights_fingerprint(str(tmp_path)))
    for name in (f"{CHECKPOINTS_FOLDER}/28/data", f"{TOKENIZER_FOLDER}/tokenizer.json"):
        with whole_file(tmp_path / name) as unfinished:
            unfinished.write_text("content")
            assert (model_identity(str(tmp_path)), weights_fingerprint(str(tmp_path))) == before


def test_a_fingerprint_sees_names_sizes_and_both_ends(tmp_path):
    prints = set()
    middle = bytes(3 << 20)
    for name, data in (("a", b"x" + middle), ("a", middle + b"x"), ("a", middle), ("b", middle)):
        (tmp_path / name).write_bytes(data)
        prints.add(fingerprint_files([tmp_path / name], tmp_path))
    assert len(prints) == 4
