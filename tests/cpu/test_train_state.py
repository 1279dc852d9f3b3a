"""The first state of a run."""

from __future__ import annotations

import jax
import numpy as np
import optax

from prorank_jax.config import LoraOptions, MeshOptions
from prorank_jax.sharding import make_mesh
from prorank_jax.train_state import init_state, train_state_shardings
from tests.cpu.tiny import tiny_model


def test_the_factors_of_a_run_follow_its_seed():
    plain, params = tiny_model()
    model, optimizer = plain.clone(lora=LoraOptions(rank=2, alpha=6.0)), optax.sgd(1.0)
    shardings = train_state_shardings(model, optimizer, make_mesh(MeshOptions(), jax.devices()[:1]))
    first, again, other = (
        np.asarray(
            init_state(params, model, optimizer, shardings, seed).params["layers"]["mlp"]["up"]["lora_a"]
        )
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
