"""What tells models apart: their files, or the newest checkpoint of a run."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from prorank_jax.config import MeshOptions
from prorank_jax.config_files import load_config
from prorank_jax.model_identity import (
    check_unchanged,
    fingerprint_files,
    has_fingerprint,
    model_identity,
    weights_fingerprint,
)
from prorank_jax.pretrained import read_run_config
from prorank_jax.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    FREE_FIELDS,
    MODEL_CONFIG_FILE,
    TOKENIZER_FOLDER,
    check_same_run,
    write_config,
)
from prorank_jax.storage_faults import whole_file
from tests.cpu.run_like_folder import STEP, TOKENIZER_FILE, WEIGHTS, fingerprint_of_before, write_run_folder


def test_identity_of_a_run_is_its_newest_checkpoint(tmp_path):
    write_config(tmp_path, load_config(None, {}))
    for name in ("model_config.json", "metrics.jsonl"):
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


ELSEWHERE = {
    "output_dir": "runs/b",
    "train.accumulation": 2,
    "train.profile_steps": 3,
    "train.sample_every": 7,
    "train.max_skipped": 9,
    "model.remat": "full",
    "model.attention": "splash",
    "grpo.packing": False,
    "ranking.packing": False,
    "probe.batch_size": 64,
    "checkpoint.keep": 5,
    "mesh.fsdp": 8,
}


@pytest.mark.parametrize("field", ELSEWHERE)
def test_a_run_that_goes_on_elsewhere_is_the_model_that_was_measured(field, tmp_path):
    write_run_folder(tmp_path, load_config(None, {}))
    measured = model_identity(str(tmp_path))
    config = load_config(None, {field: ELSEWHERE[field]})
    check_same_run(tmp_path, config)  # it may go on so
    write_config(tmp_path, config)
    assert model_identity(str(tmp_path)) == measured
    check_unchanged(str(tmp_path), measured)


def test_the_fields_that_may_change_are_those_tried_above():
    assert {name for name in ELSEWHERE if name.startswith(FREE_FIELDS)} == set(ELSEWHERE)
    assert all(any(name.startswith(free) for name in ELSEWHERE) for free in FREE_FIELDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.system": "Be brief."},
        {"data.instruction": "prefer recent work"},
        {"data.max_length": 77},
        {"data.excerpts": "key_sentences"},
        {"lora.rank": 4},
    ],
    ids=str,
)
def test_what_decides_a_score_makes_another_model(changes, tmp_path):
    write_run_folder(tmp_path)
    before = model_identity(str(tmp_path))
    write_config(tmp_path, load_config(None, changes))
    assert model_identity(str(tmp_path))["model_fingerprint"] != before["model_fingerprint"]


@pytest.mark.parametrize("file", [WEIGHTS, TOKENIZER_FILE, MODEL_CONFIG_FILE, CONFIG_FILE])
def test_what_an_earlier_version_measured_is_known_while_nothing_changed(file, tmp_path):
    run, before = str(write_run_folder(tmp_path)), fingerprint_of_before(tmp_path)
    earlier = {"model": "run", "model_step": STEP, "model_fingerprint": before, "top_k": 100}
    assert model_identity(run)["model_fingerprint"] != before
    identity = model_identity(run, earlier)
    assert identity == {"model": run, "model_step": STEP, "model_fingerprint": before}
    check_unchanged(run, identity)
    assert has_fingerprint(run, before)
    assert has_fingerprint(run, model_identity(run)["model_fingerprint"])
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
    assert not has_fingerprint(run, before)
    assert model_identity(run, earlier) == model_identity(run)
    with pytest.raises(ValueError, match="was written to while it was loaded"):
        check_unchanged(run, identity)


def test_a_run_that_is_only_come_back_to_stays_what_an_earlier_version_measured(tmp_path):
    """That version's config.yaml lacks later fields; the training command alone does not add them."""
    run = write_run_folder(tmp_path)
    file = run / "config.yaml"
    saved = yaml.safe_load(file.read_text())
    del saved["data"]["relevant_score"]
    file.write_text(yaml.safe_dump(saved, sort_keys=False))
    before, content = fingerprint_of_before(tmp_path), file.read_bytes()
    config = read_run_config(run)
    write_config(run, config)
    assert file.read_bytes() == content
    assert has_fingerprint(str(run), before)
    write_config(run, dataclasses.replace(config, mesh=MeshOptions(data=2)))
    assert yaml.safe_load(file.read_text())["mesh"]["data"] == 2


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
