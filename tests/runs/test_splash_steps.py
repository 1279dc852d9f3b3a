"""The steps with splash attention, on one device and on eight, against those with plain attention on one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import Mesh

from prorank_jax.config import REMAT_POLICIES, GrpoOptions, MeshOptions
from prorank_jax.models.attention import check_implementation, prompt_layout
from prorank_jax.models.remat import POLICIES
from prorank_jax.reranker import Reranker
from prorank_jax.scoring import list_states
from prorank_jax.sharding import make_mesh, put_batch
from prorank_jax.steps import make_grpo_step, make_score_step
from prorank_jax.train_state import init_state, train_state_shardings
from prorank_jax.types import Batch, ListBatch
from tests.cpu.tiny import ANSWERS, VOCABULARY, tiny_model

WIDTH, PREFIX, REST = 130, 20, 140
needs_eight_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")


def model_with(attention: str, remat: str = "none"):
    model, params = tiny_model(remat=remat)
    return model.clone(attention=attention), params


def prompts(rows: int = 4) -> Batch:
    rng = np.random.default_rng(3)
    lengths = rng.integers(WIDTH // 3, WIDTH + 1, rows).astype(np.int32)
    tokens = rng.integers(0, VOCABULARY, (rows, WIDTH)).astype(np.int32)
    order = np.arange(rows, dtype=np.int32)
    return Batch(tokens, lengths, order % 2, order)


def keep_gradients() -> optax.GradientTransformation:
    def zeros(params: dict) -> dict:
        return jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(zeros, lambda gradients, _, params: (zeros(params), gradients))


def reward(tokens, labels):
    return (tokens.sum(-1) % 5 + labels[:, None]).astype(jnp.float32)


def outcome_on(mesh: Mesh, attention: str, remat: str):
    """Completions, metrics, gradients and scores of one step."""
    model, params = model_with(attention, remat)
    optimizer, options = keep_gradients(), GrpoOptions(group_size=3)
    shardings = train_state_shardings(model, optimizer, mesh)
    step = make_grpo_step(model, optimizer, optax.constant_schedule(1.0), options, ANSWERS, reward, mesh)
    with jax.set_mesh(mesh):
        batch = put_batch(prompts(), mesh)
        state = init_state(jax.device_put(params, shardings.params), model, optimizer, shardings)
        scores = make_score_step(model, ANSWERS, mesh)(state.params, batch)
        state, metrics, completions = step(state, None, batch, jax.random.key(5))
    return jax.device_get((completions, metrics, state.opt_state, scores))


@pytest.fixture(scope="module")
def plain():
    return outcome_on(make_mesh(MeshOptions(), jax.devices()[:1]), "xla", "none")


@needs_eight_devices
@pytest.mark.parametrize(
    ("sizes", "remat"),
    [((2, 2, 2), "gate"), ((1, 2, 4), "none")],  # 4 does not divide the KV heads, so heads stay whole
)
def test_a_step_gives_the_numbers_of_plain_attention_on_one_device(sizes, remat, plain):
    mesh = make_mesh(MeshOptions(*sizes), jax.devices()[: np.prod(sizes)])
    completions, metrics, gradients, scores = outcome_on(mesh, "splash_interpreted", remat)
    np.testing.assert_array_equal(completions, plain[0])
    for name, value in metrics.items():
        np.testing.assert_allclose(value, plain[1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(scores, plain[3], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain[2]), strict=True):
        assert np.linalg.norm(theirs) > 0
        assert np.linalg.norm(ours - theirs) <= 2e-5 * np.linalg.norm(theirs)


def lists() -> ListBatch:
    rng = np.random.default_rng(4)
    tokens = rng.integers(0, VOCABULARY, (2, 2, REST)).astype(np.int32)
    anything = np.zeros((2, 2), np.float32)
    return ListBatch(
        prefix=rng.integers(0, VOCABULARY, (2, PREFIX)).astype(np.int32),
        prefix_lengths=np.array([PREFIX - 3, 0], np.int32),
        tokens=tokens,
        lengths=np.array([[REST, 90], [1, 128]], np.int32),
        grades=anything,
        teacher=anything,
        mask=anything > 0,
        in_batch=anything > 0,
        examples=anything.astype(np.int32),
    )


@pytest.mark.parametrize("row_tokens", [None, REST + 100])
def test_lists_after_a_shared_prefix_give_the_same_states_and_gradients(row_tokens):
    batch = lists()
    kernel_batch = dataclasses.replace(batch, row_tokens=row_tokens)
    weights = np.random.default_rng(5).normal(size=(2, 2, 16)).astype(np.float32)

    def of(attention: str, batch: ListBatch):
        model, params = model_with(attention)

        def weighted(params):
            hidden = list_states(model, params, batch, trains=True)
            return (hidden * weights).sum(), hidden

        return jax.jit(jax.grad(weighted, has_aux=True))(params)

    for ours, theirs in zip(
        jax.tree.leaves(of("splash_interpreted", kernel_batch)),
        jax.tree.leaves(of("xla", batch)),
        strict=True,
    ):
        assert np.isfinite(ours).all()
        assert np.linalg.norm(ours - theirs) <= 2e-5 * np.linalg.norm(theirs)


def kernels(jaxpr: Jaxpr) -> list[str]:
    """The names of the kernels in a program and in the programs inside it."""
    names = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            names.append(str(equation.params["name"]))
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    names += kernels(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return names


@pytest.mark.parametrize(
    ("remat", "runs"),
    [("none", 1), ("dots", 1), ("mlp", 1), ("gate", 1), ("attention", 1), ("dots_no_batch", 2), ("full", 2)],
)
def test_policies_that_keep_what_attention_gives_run_the_kernel_once(remat, runs):
    model, params = model_with("splash_interpreted", remat)
    batch = prompts()

    def loss(params):
        layout = prompt_layout(jnp.asarray(batch.lengths), WIDTH)
        return model.apply({"params": params}, batch.tokens, layout)[0].sum()

    program = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
    names = kernels(dce_jaxpr(program, [True] * len(program.outvars))[0])  # as the compiler drops dead code
    assert sum("fwd" in name for name in names) == runs
    assert sum("dkv" in name for name in names) == 1


def test_splash_is_refused_where_there_is_no_tpu():
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    check_implementation("xla", "float32", mesh)
    with pytest.raises(ValueError, match=r"model\.attention='splash': runs on TPU only, not on cpu"):
        check_implementation("splash", "bfloat16", mesh)
    with pytest.raises(ValueError, match=r"model\.attention='splash'"):
        Reranker.from_pretrained("no such model is looked for", attention="splash")
    with pytest.raises(ValueError, match=r"attention='flash': choose one of xla, splash, cudnn"):
        Reranker.from_pretrained("no such model is looked for", attention="flash")


def test_every_policy_of_the_config_is_known_to_the_model():
    assert set(REMAT_POLICIES) == {"none", *POLICIES}
