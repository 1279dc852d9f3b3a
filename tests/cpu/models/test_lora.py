"""Low-rank factors over the same tree: split, merged, and what they compute."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prorank_jax.config import LoraOptions
from prorank_jax.models.attention import prompt_layout
from prorank_jax.models.lora import (
    add_product,
    add_product_in_place,
    combine,
    initial_factors,
    merge_factors,
    split_factors,
)
from prorank_jax.models.transformer import abstract_params
from tests.cpu.models.checkpoint_files import assert_bit_equal
from tests.cpu.tiny import random_batch, tiny_model

LORA = LoraOptions(rank=3, alpha=12.0)


def random_factors(model, seed: int = 0):
    shapes, _ = split_factors(nn.unbox(abstract_params(model)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_merged_parameters_compute_what_the_factors_add(family):
    plain, params = tiny_model(family)
    model = plain.clone(lora=LORA)
    whole = combine(params, random_factors(model))
    batch = random_batch()
    layout = prompt_layout(batch.lengths, batch.tokens.shape[1])
    with_factors, _ = jax.jit(lambda p: model.apply({"params": p}, batch.tokens, layout))(whole)
    merged = merge_factors(whole, LORA.scale)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    alone, _ = jax.jit(lambda p: plain.apply({"params": p}, batch.tokens, layout))(merged)
    np.testing.assert_allclose(with_factors, alone, atol=2e-5)
    before, _ = jax.jit(lambda p: plain.apply({"params": p}, batch.tokens, layout))(params)
    assert np.abs(np.asarray(with_factors - before)).max() > 0.1  # the factors did something


def test_one_product_at_a_time_merges_to_the_same_bits():
    plain, params = tiny_model(dim=48, mlp_dim=80)
    whole = combine(params, random_factors(plain.clone(lora=LORA)))
    at_once = jax.jit(lambda whole: merge_factors(whole, LORA.scale))(whole)
    kernels = [layer["kernel"] for part in ("attention", "mlp") for layer in params["layers"][part].values()]
    present = []

    def add(kernel, *factors_and_scale):
        merged = add_product_in_place(kernel, *factors_and_scale)
        present.append((kernel.is_deleted(), merged.is_ready()))
        return merged

    assert_bit_equal(merge_factors(whole, LORA.scale, add), at_once)
    assert present == [(True, True)] * len(kernels)


def test_a_merge_in_place_takes_the_memory_of_one_product():
    kernel, a, b = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 64, 80), (3, 64, 4), (3, 4, 80)))
    size = 3 * 64 * 80 * 4
    merge = jax.jit(add_product, static_argnums=3, donate_argnums=0).lower(kernel, a, b, 2.0)
    memory = merge.compile().memory_analysis()
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes <= size


def test_every_linear_map_has_factors_and_nothing_else_has():
    model = tiny_model()[0].clone(lora=LORA)
    factors, rest = split_factors(nn.unbox(abstract_params(model)))
    maps = {"attention": ("query", "key", "value", "output"), "mlp": ("gate", "up", "down")}
    assert {part: tuple(sorted(inner)) for part, inner in factors["layers"].items()} == {
        part: tuple(sorted(names)) for part, names in maps.items()
    }
    assert set(factors) == {"layers"}
    assert jax.tree.structure(rest) == jax.tree.structure(tiny_model()[1])
    joined = combine(rest, factors)
    assert jax.tree.structure(joined) == jax.tree.structure(nn.unbox(abstract_params(model)))


def test_factors_start_without_effect_and_depend_on_the_seed():
    model = tiny_model()[0].clone(lora=LORA)
    shapes, _ = split_factors(nn.unbox(abstract_params(model)))
    first, again, other = (initial_factors(shapes, seed) for seed in (1, 1, 2))
    query = first["layers"]["attention"]["query"]
    assert not np.asarray(query["lora_b"]).any()
    assert 0.5 < float(query["lora_a"].std()) * 4 < 2  # fan-in 16: standard deviation 1/4
    np.testing.assert_array_equal(query["lora_a"], again["layers"]["attention"]["query"]["lora_a"])
    assert not np.array_equal(query["lora_a"], other["layers"]["attention"]["query"]["lora_a"])
    output = first["layers"]["attention"]["output"]["lora_a"]
    assert output.shape == (2, 4, 4, 3)  # two axes in


def test_a_rank_of_zero_adds_nothing():
    model, params = tiny_model()
    assert jax.tree.structure(nn.unbox(abstract_params(model))) == jax.tree.structure(params)
    assert LoraOptions().scale == 0.0
    with pytest.raises(ValueError, match=r"lora\.rank=-1"):
        LoraOptions(rank=-1)


def test_the_scale_is_alpha_over_the_rank():
    assert LoraOptions(rank=4, alpha=32.0).scale == 8.0


def test_factors_are_drawn_apart_each_with_the_variance_of_its_fan_in():
    shapes, _ = split_factors(nn.unbox(abstract_params(tiny_model()[0].clone(lora=LORA))))
    attention = initial_factors(shapes, 1)["layers"]["attention"]
    key, value, output = (np.asarray(attention[name]["lora_a"]) for name in ("key", "value", "output"))
    assert key.shape == value.shape
    assert not np.array_equal(key, value)
    assert 0.8 < output.std() * 4 < 1.25  # 16 numbers in: those of 4 heads of 4
