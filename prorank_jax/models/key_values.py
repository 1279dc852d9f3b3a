"""What attention keeps of tokens that were read, for those that come behind them."""

from __future__ import annotations

import flax.struct

from prorank_jax.types import Array


@flax.struct.dataclass
class KeyValues:
    """Rotated keys and values: [B, S, J, C] of one layer, or [M, B, S, J, C] of M layers."""

    keys: Array
    values: Array


@flax.struct.dataclass
class LayerKeyValues:
    """Rotated keys and values of all N layers.

    Attributes:
        stacked: [M, B, S, J, C] of the first M layers.
        last: [B, S, J, C] of the last layer where that stands apart (M = N − 1); None: M = N. Put into the
            stack, they would make a second copy of all of it.
    """

    stacked: KeyValues
    last: KeyValues | None = None
