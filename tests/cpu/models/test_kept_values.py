"""What the forward pass keeps for the backward pass: no softmax or logits, and no copy of a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import Mesh

from prorank_jax.aot.jaxpr_flops import count_flops
from prorank_jax.config import REMAT_POLICIES, MeshOptions
from prorank_jax.models import layers, plain, row_parts, transformer
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.lora import FACTOR_A, FACTOR_B, KERNEL, combine, split_factors
from prorank_jax.models.remat import POLICIES
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.sharding import logical_axes, logical_rules, make_mesh
from prorank_jax.stage_options import LoraOptions
from prorank_jax.types import Params
from tests.cpu.tiny import tiny_config, tiny_model

WIDTH = 11  # no other size of the model is like it


def kept_for_the_backward_pass(remat: str) -> list[tuple[int, ...]]:
    """Shapes of the floating-point arrays in the closure that the backward pass is."""
    model, params = tiny_model(remat=remat)
    tokens = jnp.zeros((3, WIDTH), jnp.int32)

    def loss(params):
        layout = prompt_layout(jnp.array([WIDTH, 4, 1]), WIDTH)
        return model.apply({"params": params}, tokens, layout)[0].sum()

    closure = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return [leaf.shape for leaf in jax.tree.leaves(closure) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def query_by_key(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [shape for shape in shapes if shape[-2:] == (WIDTH, WIDTH)]


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_no_policy_keeps_a_number_for_each_query_and_key(remat):
    shapes = kept_for_the_backward_pass(remat)
    assert shapes
    assert not query_by_key(shapes)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_nor_when_rows_come_one_after_the_other(remat, monkeypatch):
    monkeypatch.setattr(row_parts, "rows_at_once", lambda *_: 1)
    with jax.set_mesh(Mesh(np.array(jax.devices()[:1]), ("data",))):
        shapes = kept_for_the_backward_pass(remat)
    assert shapes
    assert not query_by_key(shapes)


def test_attention_left_to_itself_would_keep_its_softmax(monkeypatch):
    monkeypatch.setattr(plain, "_attend", lambda *given: plain._attend_forward(*given)[0])
    assert query_by_key(kept_for_the_backward_pass("none"))


def test_computing_the_softmax_again_changes_no_gradient(monkeypatch):
    model, params = tiny_model()
    tokens = jnp.arange(2 * WIDTH, dtype=jnp.int32).reshape(2, WIDTH)
    weights = np.random.default_rng(0).normal(size=(2, WIDTH, 16)).astype(np.float32)

    def gradients():
        def loss(params):
            layout = prompt_layout(jnp.array([WIDTH, 4]), WIDTH)
            return (model.apply({"params": params}, tokens, layout)[0] * weights).sum()

        return jax.jit(jax.grad(loss))(params)

    ours = gradients()
    monkeypatch.setattr(plain, "_attend", lambda *given: plain._attend_forward(*given)[0])
    for lean, kept in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients()), strict=True):
        np.testing.assert_allclose(lean, kept, rtol=1e-5, atol=1e-6 * np.abs(kept).max())


def model_with_factors(dtype: str, remat: str) -> tuple[Transformer, Params]:
    model = Transformer(tiny_config(tied=False), dtype, remat, LoraOptions(3, 6.0))
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return model, jax.tree.map(draw, nn.unbox(abstract_params(model)))


def mesh_of(devices: int) -> Mesh | None:
    return make_mesh(MeshOptions(data=1, fsdp=devices), jax.devices()[:devices]) if devices else None


def loss_of(model: Transformer, mesh: Mesh | None) -> Callable[[Params], jax.Array]:
    """Over 8 rows, for the devices of a mesh, or, without one, as for an accelerator."""
    lengths = jnp.array([WIDTH, 4, 1, 3, 7, WIDTH, 2, 5])
    tokens = jnp.arange(8 * WIDTH, dtype=jnp.int32).reshape(8, WIDTH) % model.config.vocab_size
    weights = np.random.default_rng(0).normal(size=(8, 1, model.config.dim)).astype(np.float32)
    rules = () if mesh is None else logical_rules(abstract_params(model), mesh)

    def loss(params: Params) -> jax.Array:
        places = (lengths - 1)[:, None]
        arguments = ({"params": params}, tokens, prompt_layout(lengths, WIDTH), places)
        states, _ = model.apply(*arguments, method="states_at", trains=True)
        logits = model.apply({"params": params}, states[:, 0], method="answer_logits")
        return (states * weights).sum() + jax.nn.logsumexp(logits, axis=-1).sum()

    def loss_on_mesh(params: Params) -> jax.Array:
        with nullcontext() if mesh is None else logical_axes(rules, mesh):
            return loss(params)

    return loss_on_mesh


def equations(jaxpr: core.Jaxpr, name: str) -> Iterator[Any]:
    """Those of one primitive, inside other equations too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: isinstance(leaf, core.ClosedJaxpr)
        ):
            if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                yield from equations(inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner, name)


def copies_of_weights(dtype: str, remat: str, devices: int) -> list[tuple[int, ...]]:
    """Shapes that the forward scan stacks and that have as many numbers as the weights of some layers."""
    model, params = model_with_factors(dtype, remat)
    loss = loss_of(model, mesh_of(devices))
    traced = jax.make_jaxpr(lambda params: jax.vjp(loss, params))(params)
    leaves = jax.tree_util.tree_leaves_with_path(params["layers"])
    weights = [leaf for path, leaf in leaves if path[-1].key in (KERNEL, FACTOR_A, FACTOR_B)]
    sizes = {leaf[:count].size for leaf in weights for count in range(1, len(leaf) + 1)}
    scans = equations(traced.jaxpr, "scan")
    stacked = [made.aval.shape for scan in scans for made in scan.outvars[scan.params["num_carry"] :]]
    assert [shape for shape in stacked if WIDTH in shape]
    return [shape for shape in stacked if WIDTH not in shape and np.prod(shape) in sizes]


@pytest.mark.parametrize("devices", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_no_policy_keeps_a_copy_of_a_layers_weights(remat, dtype, devices):
    assert not copies_of_weights(dtype, remat, devices)


def gradients_of_factors(remat: str) -> tuple[Any, Params, Params]:
    """The traced step of a fine-tuning on an accelerator, the factors, and what stays."""
    model, params = model_with_factors("float32", remat)
    factors, rest = split_factors(params)
    loss = loss_of(model, None)
    step = jax.jit(jax.grad(lambda factors, rest: loss(combine(rest, factors))))
    return step.trace(factors, rest), factors, rest


@pytest.mark.parametrize("remat", POLICIES)
def test_stacks_of_weights_that_are_not_trained_are_not_copied(remat):
    step, factors, rest = gradients_of_factors(remat)
    sliced = {equation.invars[0].aval.shape for equation in equations(step.jaxpr.jaxpr, "slice")}
    of_factors, of_rest = (
        {leaf.shape for leaf in jax.tree.leaves(tree["layers"])} for tree in (factors, rest)
    )
    assert of_factors <= sliced
    assert not sliced & (of_rest - of_factors)


@pytest.mark.parametrize("remat", ["mlp", "full"])
def test_taking_frozen_weights_by_number_changes_no_gradient(remat, monkeypatch):
    by_number, factors, rest = gradients_of_factors(remat)
    monkeypatch.setattr(transformer, "split_factors", lambda params: (params, {}))
    copied, _, _ = gradients_of_factors(remat)
    assert count_flops(by_number.jaxpr) == count_flops(copied.jaxpr)
    results = (jax.tree.leaves(step.lower().compile()(factors, rest)) for step in (by_number, copied))
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(got, wanted)


def gather_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(x: jax.Array, weight: jax.Array, axes: tuple[str, ...], contracted: int) -> jax.Array:
        return layers._contract(x, layers.gathered(weight, axes, x.dtype), contracted)

    monkeypatch.setattr(layers, "_times", times)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scan_left_to_itself_would_keep_gathered_weights(dtype, monkeypatch):
    gather_once(monkeypatch)
    assert len(copies_of_weights(dtype, "none", 1)) == 3 * 7  # each map's kernel and factors


@pytest.mark.parametrize("devices", [0, 1, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gathering_a_second_time_changes_no_gradient_and_multiplies_no_more(dtype, devices, monkeypatch):
    model, params = model_with_factors(dtype, "none")
    mesh = mesh_of(devices)

    def traced() -> Any:
        return jax.jit(jax.value_and_grad(loss_of(model, mesh))).trace(params)

    twice = traced()
    gather_once(monkeypatch)
    once = traced()
    assert count_flops(twice.jaxpr) == count_flops(once.jaxpr)
    results = (jax.tree.leaves(step.lower().compile()(params)) for step in (twice, once))
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_weights_are_gathered_by_the_rules_in_context():
    """The same mesh and shapes, and other rules: not what was traced before."""
    mesh = mesh_of(2)
    projection = layers.Projection((4,), (6,), ("embed", "mlp"))
    variables, x = {"params": {"kernel": jnp.ones((4, 6))}}, jnp.ones((2, 4))

    def traced(mlp: str | None) -> str:
        def run(x):
            with logical_axes([("embed", "fsdp"), ("mlp", mlp)], mesh):
                return projection.apply(variables, x)

        return str(jax.make_jaxpr(run)(x))

    assert traced(None) != traced("fsdp")
