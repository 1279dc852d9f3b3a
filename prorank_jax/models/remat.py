"""What a layer's forward pass keeps for the backward pass; everything else is computed a second time.

Named values of a layer, so that a policy can say which it keeps. With H·C = D, one value of a token has D
numbers, except the gate and up products with F each; with splash attention `ATTENDED` includes the
logarithm of each softmax's denominator, without which the kernel would have to run again.
"""

from __future__ import annotations

from typing import Any

import jax

QUERY, KEY, VALUE = "query", "key", "value"  # rotated, before the keys of a prefix join them
ATTENDED = "attended"  # what attention gives to its output projection
GATE, UP = "gate", "up"

_policies = jax.checkpoint_policies
_ATTENTION = (QUERY, KEY, VALUE, ATTENDED)

POLICIES: dict[str, Any] = {
    "full": _policies.nothing_saveable,
    "attention": _policies.save_only_these_names(*_ATTENTION),
    "gate": _policies.save_only_these_names(*_ATTENTION, GATE),
    "mlp": _policies.save_only_these_names(*_ATTENTION, GATE, UP),
    "dots_no_batch": _policies.dots_with_no_batch_dims_saveable,
    # A kernel's products are no `dot_general` of the layer, so they are named.
    "dots": _policies.save_from_both_policies(
        _policies.dots_saveable, _policies.save_only_these_names(ATTENDED)
    ),
}
