"""How often processes of tests look for garbage."""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000


def collect_seldom() -> None:
    """Tracing a step makes objects by the hundred thousand, and jax works whenever garbage is collected.

    At Python's own pace that is a fifth of the time.
    """
    gc.set_threshold(COLLECT_AFTER)
