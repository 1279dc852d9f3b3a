"""The transformer against transformers' logits, and what must not change a row: padding, batch, future."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.aot.jaxpr_flops import count_flops
from prorank_jax.config import MeshOptions
from prorank_jax.flops import forward_flops, read_flops
from prorank_jax.models.attention import completion_layout, prompt_layout
from prorank_jax.models.key_table import at_path, key_table
from prorank_jax.models.layers import rows_at
from prorank_jax.models.remat import POLICIES
from prorank_jax.models.transformer import Transformer
from prorank_jax.sharding import make_mesh

# Logits of the goldens are up to 11. bfloat16 keeps 8 bits: a few percent after 3 layers of random weights.
PARITY = 2e-4
# Another shape is another order of summation: 1.3e-5 was seen, with logits up to 11.
ROUNDING = 5e-5
BFLOAT16_WORST, BFLOAT16_MEAN = 1.0, 0.08


def test_logits_equal_transformers(golden, all_logits):
    got = all_logits(golden.params, golden.tokens, golden.lengths, config=golden.config)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(got)[golden.real], golden.logits[golden.real], atol=PARITY, rtol=0)


@pytest.mark.parametrize("golden", ["qwen2_tied", "qwen3"], indirect=True)
def test_bfloat16_stays_near_float32(golden, all_logits):
    low = all_logits(
        golden.params, golden.tokens, golden.lengths, config=golden.config, compute_dtype="bfloat16"
    )
    difference = np.abs(np.asarray(low) - golden.logits)[golden.real]
    assert low.dtype == jnp.float32
    assert difference.max() <= BFLOAT16_WORST
    assert difference.mean() <= BFLOAT16_MEAN


def test_padding_tokens_change_nothing(golden, all_logits):
    other = np.where(golden.real, golden.tokens, (golden.tokens + 17) % golden.config.vocab_size)
    assert (other != golden.tokens).any()
    first = all_logits(golden.params, golden.tokens, golden.lengths, config=golden.config)
    second = all_logits(golden.params, other, golden.lengths, config=golden.config)
    np.testing.assert_array_equal(np.asarray(first)[golden.real], np.asarray(second)[golden.real])


def test_the_width_of_the_padding_changes_nothing(golden, all_logits):
    wide = np.pad(golden.tokens, ((0, 0), (0, 5)), constant_values=3)
    got = np.asarray(all_logits(golden.params, wide, golden.lengths, config=golden.config))
    narrow = np.asarray(all_logits(golden.params, golden.tokens, golden.lengths, config=golden.config))
    np.testing.assert_allclose(
        got[:, : narrow.shape[1]][golden.real], narrow[golden.real], atol=ROUNDING, rtol=0
    )


def test_the_batch_around_a_row_changes_nothing(golden, all_logits):
    together = np.asarray(all_logits(golden.params, golden.tokens, golden.lengths, config=golden.config))
    for row, length in enumerate(golden.lengths):
        tokens, lengths = golden.tokens[row : row + 1], golden.lengths[row : row + 1]
        alone = np.asarray(all_logits(golden.params, tokens, lengths, config=golden.config))
        np.testing.assert_allclose(alone[0, :length], together[row, :length], atol=ROUNDING, rtol=0)


def test_the_future_has_no_gradient(qwen2):
    width = 6
    tokens = jnp.arange(width, dtype=jnp.int32)[None]  # a token each, so that embedding rows are positions
    model = Transformer(qwen2.config)

    @jax.jit
    @jax.jacrev
    def by_position(embedding):
        params = {**qwen2.params, "embedding": embedding}
        hidden, _ = model.apply({"params": params}, tokens, prompt_layout(jnp.array([width]), width))
        return jnp.sin(hidden[0]).sum(-1)  # [T]

    reach = np.abs(by_position(qwen2.params["embedding"])).max(-1)[:, :width]  # [T of output, T of input]
    np.testing.assert_array_equal(reach[np.triu_indices(width, 1)], 0.0)
    assert (reach[np.tril_indices(width)] > 0).all()


class TestSharedPrompt:
    """Completions that attend to one cached copy of their prompt, against whole rows."""

    WIDTH, GROUP, NEW = 8, 3, 3
    LENGTHS = (8, 1, 5)

    def _tokens(self, config):
        rng = np.random.default_rng(0)
        size = len(self.LENGTHS)
        prompts = rng.integers(0, config.vocab_size, (size, self.WIDTH), dtype=np.int32)
        completions = rng.integers(0, config.vocab_size, (size, self.GROUP, self.NEW), dtype=np.int32)
        return prompts, completions, jnp.array(self.LENGTHS, jnp.int32)

    def _runner(self, golden, lengths):
        """A function that gives hidden states of the completions [B, G, NEW, D], the prompt run once."""
        variables, model = {"params": golden.params}, Transformer(golden.config)

        @jax.jit
        def run(prompts, completions):
            layout = prompt_layout(lengths, self.WIDTH)
            _, prefix = model.apply(variables, prompts, layout)
            own = completion_layout(lengths, self.GROUP, self.NEW)
            flat = completions.reshape(len(self.LENGTHS), -1)  # [B, G·NEW]
            hidden, _ = model.apply(variables, flat, own, prefix, layout)
            return hidden.reshape(*completions.shape, golden.config.dim)

        return lambda *tokens: np.asarray(run(*tokens))

    @pytest.mark.parametrize("golden", ["qwen2_tied", "qwen3"], indirect=True)
    def test_equals_whole_rows(self, golden):
        prompts, completions, lengths = self._tokens(golden.config)
        shared = self._runner(golden, lengths)(prompts, completions)
        width = self.WIDTH + self.NEW
        rows = np.zeros((len(self.LENGTHS) * self.GROUP, width), np.int32)
        for row, (prompt, group) in enumerate(np.ndindex(len(self.LENGTHS), self.GROUP)):
            whole = [*prompts[prompt, : self.LENGTHS[prompt]], *completions[prompt, group]]
            rows[row, : len(whole)] = whole
        whole_lengths = jnp.repeat(lengths, self.GROUP) + self.NEW
        model, layout = Transformer(golden.config), prompt_layout(whole_lengths, width)
        hidden = jax.jit(lambda rows: model.apply({"params": golden.params}, rows, layout)[0])(rows)
        for row, (prompt, group) in enumerate(np.ndindex(len(self.LENGTHS), self.GROUP)):
            start = self.LENGTHS[prompt]
            np.testing.assert_allclose(
                shared[prompt, group], hidden[row, start : start + self.NEW], atol=2e-5, rtol=0
            )

    def test_prompt_padding_and_siblings_change_nothing(self, qwen2):
        prompts, completions, lengths = self._tokens(qwen2.config)
        run = self._runner(qwen2, lengths)
        first = run(prompts, completions)
        real = np.arange(self.WIDTH) < np.asarray(lengths)[:, None]
        padding = np.where(real, prompts, (prompts + 5) % qwen2.config.vocab_size)
        np.testing.assert_array_equal(first, run(padding, completions))
        other = completions.copy()
        other[:, 1] = (other[:, 1] + 7) % qwen2.config.vocab_size
        second = run(prompts, other)
        np.testing.assert_array_equal(first[:, [0, 2]], second[:, [0, 2]])
        assert (first[:, 1] != second[:, 1]).any(axis=-1).all()


@pytest.mark.parametrize(
    "remat",
    [
        "full",
        "gate",
        pytest.param("mlp", marks=pytest.mark.slow),
        pytest.param("attention", marks=pytest.mark.slow),
        pytest.param("dots", marks=pytest.mark.slow),
        pytest.param("dots_no_batch", marks=pytest.mark.slow),
    ],
)
def test_recomputing_changes_no_gradient(qwen2, all_logits, remat):
    def loss(params, remat):
        logits = all_logits(params, qwen2.tokens, qwen2.lengths, config=qwen2.config, remat=remat)
        return jnp.where(qwen2.real[..., None], jnp.sin(logits), 0.0).mean()

    gradient_of = jax.jit(jax.grad(loss), static_argnums=1)
    expected, got = gradient_of(qwen2.params, "none"), gradient_of(qwen2.params, remat)
    for path, gradient in jax.tree_util.tree_leaves_with_path(got):
        reference = at_path(expected, tuple(part.key for part in path))
        np.testing.assert_allclose(gradient, reference, atol=1e-6, err_msg=str(path))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-5),
        ({"attention": "splash_interpreted"}, 1e-5),
        ({"attention": "cudnn_emulated"}, 1e-5),
        ({"compute_dtype": "bfloat16"}, 0.05),
    ],
    ids=str,
)
def test_states_at_a_few_places_are_those_of_all(golden, options, tolerance, trains):
    """Alone, and behind a prefix, whose keys and values are those of all tokens too."""
    model = Transformer(golden.config, **options)
    variables, width, split = {"params": golden.params}, golden.tokens.shape[1], 4
    lengths = jnp.maximum(golden.lengths, split + 1)
    places = jnp.stack([lengths - 1, lengths // 2], axis=1)
    before = prompt_layout(jnp.full(len(lengths), split), split)
    after = prompt_layout(lengths - split, width - split)
    after = dataclasses.replace(after, positions=after.positions + split)
    states_at = functools.partial(model.apply, method="states_at", trains=trains)

    @jax.jit
    def run(variables):
        whole, own = model.apply(variables, golden.tokens, prompt_layout(lengths, width))
        layout = prompt_layout(lengths, width)
        few, own_of_few = states_at(variables, golden.tokens, layout, places)
        start = (variables, golden.tokens[:, :split], before, jnp.zeros((len(lengths), 1), jnp.int32))
        _, prefix = states_at(*start)
        end = (golden.tokens[:, split:], after, places[:, :1] - split, prefix, before)
        behind, _ = states_at(variables, *end)
        return jnp.take_along_axis(whole, places[:, :, None], axis=1), few, own, own_of_few, behind

    wanted, few, own, own_of_few, behind = jax.tree.map(np.asarray, run(variables))
    np.testing.assert_allclose(few, wanted, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(behind, wanted[:, :1], atol=tolerance, rtol=tolerance)
    assert own_of_few.stacked.keys.shape[0] == golden.config.layers - 1
    for stacked, last, of_all in zip(
        *map(jax.tree.leaves, (own_of_few.stacked, own_of_few.last, own)), strict=True
    ):
        joined = np.concatenate([stacked, last[None]])
        np.testing.assert_allclose(joined, of_all, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("golden", "remat"),
    [("qwen2_tied", "none"), *(("qwen3", remat) for remat in POLICIES)],
    indirect=["golden"],
)
def test_gradients_through_a_few_places_are_those_through_all(golden, remat):
    """A prompt of a list: its last token, and an earlier one, behind a prefix that is trained too."""
    model, width, split = Transformer(golden.config, remat=remat), golden.tokens.shape[1], 4
    lengths = jnp.maximum(golden.lengths, split + 2)
    places = jnp.stack([lengths - 1, lengths - 2], axis=1) - split
    before = prompt_layout(jnp.full(len(lengths), split), split)
    after = prompt_layout(lengths - split, width - split)
    after = dataclasses.replace(after, positions=after.positions + split)
    weights = np.random.default_rng(3).normal(size=(*places.shape, golden.config.dim)).astype(np.float32)

    def few(params):
        states_at = functools.partial(model.apply, {"params": params}, method="states_at", trains=True)
        start = jnp.zeros((len(lengths), 1), jnp.int32)
        _, prefix = states_at(golden.tokens[:, :split], before, start)
        return (states_at(golden.tokens[:, split:], after, places, prefix, before)[0] * weights).sum()

    def whole(params):
        states, _ = model.apply({"params": params}, golden.tokens, prompt_layout(lengths, width))
        return (jnp.take_along_axis(states, (places + split)[:, :, None], axis=1) * weights).sum()

    ours, wanted = (jax.jit(jax.grad(loss))(golden.params) for loss in (few, whole))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max() + 1))


def test_training_runs_the_whole_last_layer_on_a_cpu_only(golden):
    model, width = Transformer(golden.config), golden.tokens.shape[1]
    layout = prompt_layout(jnp.asarray(golden.lengths), width)
    places = jnp.asarray(golden.lengths)[:, None] - 1

    def multiplied(mesh) -> int:
        def states(params):
            with mesh:
                return model.apply(
                    {"params": params}, golden.tokens, layout, places, method="states_at", trains=True
                )[0]

        return count_flops(jax.make_jaxpr(states)(golden.params))

    rows, few = len(golden.lengths), read_flops(golden.config, width, width, 1)
    assert multiplied(contextlib.nullcontext()) == rows * few
    cpu = jax.sharding.use_abstract_mesh(make_mesh(MeshOptions(data=1), jax.devices()[:1]).abstract_mesh)
    assert multiplied(cpu) == rows * forward_flops(golden.config, width, width)


def test_the_last_state_and_the_direction_give_the_logit_difference(golden):
    model, variables = Transformer(golden.config), {"params": golden.params}
    width = golden.tokens.shape[1]

    @jax.jit
    def score(tokens, lengths):
        hidden, _ = model.apply(variables, tokens, prompt_layout(lengths, width))
        return rows_at(hidden, lengths[:, None] - 1)[:, 0] @ model.apply(
            variables, 7, 9, method="answer_direction"
        )

    logits = golden.logits[np.arange(len(golden.lengths)), golden.lengths - 1]
    np.testing.assert_allclose(
        score(golden.tokens, golden.lengths), logits[:, 9] - logits[:, 7], atol=PARITY, rtol=0
    )


def test_the_key_table_is_the_models_parameters(golden):
    for tied in (False, True):
        config = dataclasses.replace(golden.config, tied=tied)
        model, layout = Transformer(config), prompt_layout(jnp.array([2]), 2)
        made = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32), layout)
        shapes = jax.tree.map(lambda leaf: leaf.shape, nn.unbox(made)["params"])
        listed = {key.path: key.full_shape(config.layers) for key in key_table(config)}
        paths = jax.tree_util.tree_leaves_with_path(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
        assert listed == {tuple(part.key for part in path): shape for path, shape in paths}
