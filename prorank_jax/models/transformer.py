"""The decoder-only transformer: Qwen2, Qwen2.5, Qwen3 and Llama-style, as pure functions of params.

Layers are stacked on a leading axis and run by one `nn.scan`, so a model compiles as fast as one block.
The vocabulary projection is apart from the layers: callers gather the few positions they need first,
so that no `[B, T, V]` array is ever made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prorank_jax.models.attention import (
    TokenLayout,
    Visibility,
    prompt_layout,
    visibility_at,
    visibility_for,
)
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.key_values import KeyValues, LayerKeyValues
from prorank_jax.models.layers import (
    Attention,
    GatedMLP,
    RMSNorm,
    gathered,
    rows_at,
)
from prorank_jax.models.lora import combine, split_factors
from prorank_jax.models.over_mesh import on_cpu
from prorank_jax.models.packed_layout import PackedLayout
from prorank_jax.models.products import wide_on_cpu, wide_product
from prorank_jax.models.remat import POLICIES
from prorank_jax.models.rotary import rotary_angles
from prorank_jax.stage_options import LoraOptions
from prorank_jax.types import Array

_TABLE_AXES = ("vocab", "embed")


class Block(nn.Module):
    """One pre-norm decoder layer; the scan carries `x` and collects each layer's keys and values.

    With `places` [B, R] it gives the tokens there only, for what all of them ask the others.
    """

    config: ModelConfig
    compute_dtype: str
    lora: LoraOptions = LoraOptions()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        visible: Visibility,
        prefix: KeyValues | None,
        places: Array | None = None,
    ) -> tuple[jax.Array, KeyValues]:
        c = self.config
        normed = RMSNorm(c.norm_eps, "norm", self.compute_dtype, name="attention_norm")(x)
        mixed, keyvalues = Attention(c, self.lora, name="attention")(normed, angles, visible, prefix, places)
        x = (x if places is None else rows_at(x, places)) + mixed
        normed = RMSNorm(c.norm_eps, "norm", self.compute_dtype, name="mlp_norm")(x)
        x = x + GatedMLP(c, self.lora, name="mlp")(normed)
        x = nn.with_logical_constraint(x, ("batch", "length", "activation"))
        return x, keyvalues


class Transformer(nn.Module):
    """The language model without its head; `answer_logits` is the head.

    Attributes:
        config: the architecture.
        compute_dtype: `float32` or `bfloat16` for matrix products; parameters stay float32.
        remat: what is kept for the backward pass: `none` keeps all but weights, the others are in `remat`.
        lora: rank and scale of the low-rank factors beside each linear map; rank 0: none.
        attention: `xla`, `splash` (TPU), `cudnn` (NVIDIA GPUs); see `attention.visibility_for` for others.
    """

    config: ModelConfig
    compute_dtype: str = "float32"
    remat: str = "none"
    lora: LoraOptions = LoraOptions()
    attention: str = "xla"

    def setup(self) -> None:
        c = self.config
        shape = (c.vocab_size, c.dim)
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), _TABLE_AXES)
        self.embedding: Any = self.param("embedding", init, shape, jnp.float32)
        if not c.tied:
            self.unembedding: Any = self.param("unembedding", init, shape, jnp.float32)
        self.final_norm = RMSNorm(c.norm_eps, "norm", self.compute_dtype)
        block: Any = Block
        if self.remat != "none":
            # The scan already keeps the compiler from merging the recomputed part with the first.
            block = nn.remat(Block, policy=POLICIES[self.remat], prevent_cse=False)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.compute_dtype, self.lora)

    def __call__(
        self,
        tokens: Array,
        layout: TokenLayout | PackedLayout,
        prefix: KeyValues | None = None,
        prefix_layout: TokenLayout | None = None,
    ) -> tuple[jax.Array, KeyValues]:
        """Runs the layers over rows of tokens, after an optional prefix that was run before.

        Args:
            tokens: [B, Q] int32.
            layout: of those tokens.
            prefix: [N, B, P, J, C] keys and values that `layout`'s tokens may attend to.
            prefix_layout: of the prefix, [B, P].

        Returns:
            The normalised hidden states [B, Q, D] in the compute dtype, and this row's own keys and
            values [N, B, Q, J, C] (dropped by the compiler where nobody uses them).
        """
        x = wide_on_cpu(self._embed(tokens))
        angles = rotary_angles(layout.positions, self.config.head_dim, self.config.rope_theta)
        visible = visibility_for(self.attention, layout, prefix_layout)
        x, keyvalues = self.layers(x, angles, visible, prefix)
        return self.final_norm(x), keyvalues

    def states_at(
        self,
        tokens: Array,
        layout: TokenLayout | PackedLayout,
        places: Array | None,
        prefix: LayerKeyValues | None = None,
        prefix_layout: TokenLayout | None = None,
        *,
        trains: bool = False,
    ) -> tuple[jax.Array, LayerKeyValues]:
        """`__call__` at a few places of each row: [B, R, D], and all keys and values.

        The last layer makes keys and values of every token, and all else of those at `places` only: of N
        layers about 1/N of the work is left out. A scan's layers are all alike, so the last one stands
        behind it, and keeps what its backward pass needs.

        Args:
            places: [B, R] int32, of the tokens of each row; None: all of them.
            prefix: what this function gave for the tokens before. One scan runs all layers behind one that
                did.
            trains: whether gradients will be asked for. Without them each layer takes its parameters out of
                the stack by number, which copies nothing; the gradient of that would add up whole stacks.
                So training copies the stacks of what it trains, and on a CPU, where memory that is touched
                for the first time in a step costs about what is saved, it runs the whole last layer.
        """
        if (trains and on_cpu()) or (prefix is not None and prefix.last is None):
            before = None if prefix is None else prefix.stacked
            states, keyvalues = self(tokens, layout, before, prefix_layout)
            return states if places is None else rows_at(states, places), LayerKeyValues(keyvalues)
        c = self.config
        angles = rotary_angles(layout.positions, c.head_dim, c.rope_theta)
        block = Block(c, self.compute_dtype, self.lora, parent=None)
        visible = visibility_for(self.attention, layout, prefix_layout)
        params = self.layers.variables["params"]
        before, before_last = (None, None) if prefix is None else (prefix.stacked, prefix.last)

        def run(
            x: jax.Array, layer: tuple[Any, KeyValues | None], visible: Visibility, *only: Array
        ) -> tuple[jax.Array, KeyValues]:
            params, before = layer
            result: Any = block.apply({"params": params}, x, angles, visible, before, *only)
            return result

        def numbered(stacks: Any, number: Any) -> Any:
            return jax.tree.map(
                lambda stack: jax.lax.dynamic_index_in_dim(stack, number, keepdims=False), stacks
            )

        numbers = jnp.arange(c.layers - 1)
        x = wide_on_cpu(self._embed(tokens))
        if trains:
            # Without `jax.checkpoint` a scan would stack what it takes by number.
            factors_only = self.lora.rank > 0 and self.remat != "none"
            trained, frozen = split_factors(params) if factors_only else (params, {})

            def run_whole(x: jax.Array, layer: tuple[Any, Any, Any]) -> tuple[jax.Array, KeyValues]:
                number, own, before = layer
                return run(x, (combine(own, numbered(frozen, number)), before), visible)

            if self.remat != "none":
                run_whole = jax.checkpoint(run_whole, policy=POLICIES[self.remat], prevent_cse=False)
            but_last = jax.tree.map(lambda stack: stack[:-1], trained)
            x, stacked = jax.lax.scan(run_whole, x, (numbers, but_last, before))
            own = jax.tree.map(lambda stack: stack[-1], trained)
            last_params = combine(own, numbered(frozen, c.layers - 1))
        else:
            x, stacked = jax.lax.scan(
                lambda x, number: run(x, numbered((params, before), number), visible), x, numbers
            )
            last_params = numbered(params, c.layers - 1)
        last_layer = (last_params, before_last)
        if places is None:
            x, last = run(x, last_layer, visible)
        else:
            x, last = run(x, last_layer, visibility_at(places, layout, prefix_layout), places)
        return self.final_norm(x), LayerKeyValues(stacked, last)

    def _embed(self, tokens: Array) -> jax.Array:
        """Embeddings in the compute dtype: [B, Q] → [B, Q, D].

        Each device looks up its columns for the rows of all devices of `fsdp`, and they exchange columns
        for rows: that moves activations of one layer, where gathering the table would move all of it.
        """
        tokens = nn.with_logical_constraint(jnp.asarray(tokens), ("lookup", "length"))
        columns = self.embedding[tokens].astype(self.compute_dtype)
        columns = nn.with_logical_constraint(columns, ("lookup", "length", "embed"))
        return nn.with_logical_constraint(columns, ("batch", "length", "activation"))

    def answer_logits(self, hidden: Array) -> jax.Array:
        """Projects hidden states of a few positions [B, ..., D] onto the vocabulary: [B, ..., V] float32."""
        table = gathered(self._output_table(), _TABLE_AXES, hidden.dtype)
        logits = wide_product(jnp.asarray(hidden), table)
        return nn.with_logical_constraint(logits, ("batch", *(None for _ in hidden.shape[1:-1]), "vocab"))

    def answer_direction(self, zero: int, one: int) -> jax.Array:
        """w₁ − w₀, the only part of the output embedding a score needs: [D] float32."""
        table = self._output_table()
        return nn.with_logical_constraint(table[one] - table[zero], ("activation",))

    def _output_table(self) -> Any:
        return self.embedding if self.config.tied else self.unembedding


@cache
def abstract_params(model: Transformer) -> Any:
    """Shapes, dtypes and logical axis names of the parameters; allocates nothing. Not to be changed."""

    def init() -> Any:
        tokens = jnp.zeros((1, 8), jnp.int32)  # too few for a kernel, which would split one row over a mesh
        return model.init(jax.random.key(0), tokens, prompt_layout(jnp.array([8]), 8))

    return jax.eval_shape(init)["params"]
