"""Scores of random prompts on all devices there are; as a script, `scored_pairs.py FILE` saves them.

It is one process of several where the environment names its peers. The last axis of the mesh is of two
devices; with `--tensor-across`, these two belong to different processes.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np

PAIRS, LONGEST = 21, 70


def random_prompts(pairs: list[tuple[str, str]]) -> list[list[int]]:
    """The document's number decides a prompt and its length."""
    from tests.cpu.tiny import VOCABULARY

    draws = [np.random.default_rng(int(document)) for _, document in pairs]
    return [rng.integers(0, VOCABULARY, rng.integers(1, LONGEST + 1)).tolist() for rng in draws]


def scores_here(tensor_across: bool = False) -> np.ndarray:
    """The scores [2n] float32 that this process sees: of padded prompts, then of packed ones."""
    import prorank_jax.scorer
    from prorank_jax.config import MeshOptions
    from prorank_jax.models.transformer import abstract_params
    from prorank_jax.scorer import PairScorer
    from prorank_jax.sharding import make_mesh, state_shardings
    from tests.cpu.tiny import ANSWERS, tiny_model

    devices = jax.devices()
    if tensor_across:
        devices = [devices[i] for i in np.arange(len(devices)).reshape(2, -1).T.flatten()]
    model, params = tiny_model()
    mesh = make_mesh(MeshOptions(data=-1, fsdp=2, tensor=2), devices)
    where = state_shardings(abstract_params(model), mesh)

    def place(leaf: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    params = jax.tree.map(place, params, where)
    pairs, found = [("query", str(number)) for number in range(PAIRS)], []
    for packs in (False, True):
        if packs:
            prorank_jax.score_batches.plan_flops = lambda *_: math.inf  # whatever the work
        scorer = PairScorer(
            model, params, ANSWERS, mesh, max_length=LONGEST, batch_size=8, share_prefixes=packs
        )
        found.append(scorer.score(random_prompts, pairs))
        assert {len(shape) for shape in scorer.compiled_shapes} == {5 if packs else 2}
    return np.concatenate(found)


if __name__ == "__main__":
    from tests.cpu.tiny_run import load_launcher

    load_launcher().join_peers()
    np.save(sys.argv[1], scores_here("--tensor-across" in sys.argv))
